// The rows that are no messages: days, what is new, what is being fetched, and what was not sent or
// not answered.

import { EndReason, Link } from "../sdk/client.js";
import { dropFailed, retryFailed, reviseFailed } from "./actions.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { dateOf, Face, Quote } from "./message_parts.js";
import { MessageText } from "./message_text.js";
import { explain } from "./problem.js";
import { html } from "./ui.js";

/** Another day begins. */
export function Day({ row }) {
  const { say, words } = useApp();
  const day = new Date(row.ts);
  const daysAgo = Math.round((midnight(new Date()) - midnight(day)) / 86_400_000);
  const near = { 0: "chat.today", 1: "chat.yesterday" }[daysAgo];
  return html`<div class="day-line"><span>${near ? say(near) : dateOf(words.locale, day)}</span></div>`;
}

const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();

/** What follows is new. */
export function NewLine() {
  const { say } = useApp();
  return html`<div class="new-line"><span>${say("chat.new_here")}</span></div>`;
}

/** There is more on this side: it is being fetched, or could not be. */
export function More({ side, list }) {
  const { say } = useApp();
  if (list.side(side) !== "failed") {
    return html`
      <div class="more-line"><span class="spinner" aria-hidden="true"></span>${say("chat.loading")}</div>
    `;
  }
  return html`
    <div class="more-line">
      ${say("chat.not_loaded")}
      <button type="button" class="button small" onClick=${() => list.loadMore(side)}>
        ${say("action.try_again")}
      </button>
    </div>
  `;
}

/** One's own message that the server has not stored yet. */
export function Waiting({ row, list }) {
  const { model, say } = useApp();
  const { sent, first, quote } = row;
  const view = model.view(list.conv);
  return html`
    <article class=${first ? "message own first waiting" : "message own waiting"}>
      <div class="message-side"></div>
      <div class="message-main">
        ${quote && html`<${Quote} quote=${quote} view=${view} list=${list} />`}
        <div class="message-body">
          <${MessageText} text=${sent.unsent.text} x=${sent.unsent.x} view=${view} done=${true} />
        </div>
        <p class="message-state">
          <${Icon} name="clock" />
          <span>${say(model.link.value.state === Link.ONLINE ? "chat.waiting" : "chat.waits")}</span>
        </p>
      </div>
    </article>
  `;
}

/** One's own message that the server refused: why, and what to do. */
export function Failed({ row, list }) {
  const app = useApp();
  const { say, words } = app;
  const { failed, quote } = row;
  const { conv } = list;
  const view = app.model.view(conv);
  return html`
    <article class="message own first failed">
      <div class="message-side"></div>
      <div class="message-main">
        ${quote && html`<${Quote} quote=${quote} view=${view} list=${list} />`}
        <div class="message-body">
          <${MessageText} text=${failed.text} x=${failed.x} view=${view} done=${true} />
        </div>
        <p class="message-state problem">
          <${Icon} name="error" /><span>${say("chat.not_sent")} ${explain(words, failed)}</span>
        </p>
        <div class="message-choices">
          <button type="button" class="button small" onClick=${() => retryFailed(app, conv, failed)}>
            ${say("action.try_again")}
          </button>
          <button type="button" class="button small" onClick=${() => reviseFailed(app, conv, failed)}>
            ${say("action.edit")}
          </button>
          <button type="button" class="button small" onClick=${() => dropFailed(app, conv, failed)}>
            ${say("action.delete")}
          </button>
        </div>
      </div>
    </article>
  `;
}

/** An answer that came to nothing: why, and asking again. */
export function Ended({ row, list }) {
  const app = useApp();
  const { model, say, words } = app;
  const { conv } = list;
  const { ended } = row;
  const view = model.view(conv);
  const isFiltered = ended.reason === EndReason.FILTERED;
  const why = ended.detail !== "" || ended.code !== 0 ? explain(words, ended) : "";
  return html`
    <article class="message first came-to-nothing">
      <div class="message-side">
        ${ended.persona !== 0 && html`<${Face} id=${ended.persona} view=${view} />`}
      </div>
      <div class="message-main">
        <header class="message-head">
          <span class="message-name">${model.nameOf(ended.persona, view)}</span>
        </header>
        <p class="message-finish problem">
          ${say(isFiltered ? "chat.filtered" : "chat.no_answer")} ${why}
        </p>
        <div class="message-choices">
          ${ended.ask !== 0 &&
          html`
            <button type="button" class="button small" onClick=${() => list.askAgain(ended)}>
              <${Icon} name="refresh" />${say("action.try_again")}
            </button>
          `}
          <button type="button" class="button small" onClick=${() => model.forgetEnded(conv, ended.sid)}>
            ${say("action.close")}
          </button>
        </div>
      </div>
    </article>
  `;
}
