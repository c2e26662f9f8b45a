// One row of a conversation: a message, an answer on its way, or what stands between messages.

import { ConvKind, EndReason, MsgKind, StreamState } from "../sdk/client.js";
import { actionsOf, pick, stop } from "./actions.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { Day, Ended, Failed, More, NewLine, Waiting } from "./message_lines.js";
import { Edited, Face, Quote, Time } from "./message_parts.js";
import { MessageText } from "./message_text.js";
import { MenuButton } from "./overlay.js";
import { explain } from "./problem.js";
import { StreamParts } from "./stream_parts.js";
import { html } from "./ui.js";

/** Actions that have a button of their own beside the menu. */
const BUTTONS = 2;

/**
 * Draws one row of `timeline`. `list`: {conv, goTo(seq), loadMore(side), side(side), stream(sid),
 * tick(sid), target, askAgain(ended)} of the list that it stands in.
 */
export function Row({ row, list }) {
  return html`<${ROWS[row.kind]} row=${row} list=${list} />`;
}

const ROWS = {
  older: ({ list }) => html`<${More} side="older" list=${list} />`,
  newer: ({ list }) => html`<${More} side="newer" list=${list} />`,
  day: Day,
  new: NewLine,
  message: Written,
  stream: Written,
  waiting: Waiting,
  failed: Failed,
  ended: Ended,
};

/** One component for both, so that an answer on its way becomes a message in the same elements. */
function Written({ row, list }) {
  const { place, msg } = row;
  if (msg?.kind !== MsgKind.SYSTEM) return html`<${Message} row=${row} list=${list} />`;
  return html`<p class="system-line" data-place=${place} data-seq=${msg.seq}>${msg.text}</p>`;
}

/** A stored message, or an answer on its way. */
function Message({ row, list }) {
  const { model } = useApp();
  const { msg, stream, first, own = false, branch } = row;
  const view = model.view(list.conv);
  const sid = stream?.sid ?? msg.x?.sid ?? 0;
  const sender = stream?.persona ?? msg.sender;
  const isRecalled = Boolean(msg?.x?.recalled);
  if (stream) {
    void list.tick(sid).value;
    void model.streams(list.conv);
  }
  const isTarget = msg !== undefined && list.target.value === msg.seq;
  const names = ["message", own && "own", first && "first", stream && "streaming", isTarget && "target"];
  return html`
    <article
      class=${names.filter(Boolean).join(" ")}
      tabindex="-1"
      data-place=${row.place}
      data-seq=${msg?.seq}
      data-sid=${stream?.sid}
    >
      <div class="message-side">${first && !own && html`<${Face} id=${sender} view=${view} />`}</div>
      <div class="message-main">
        <${Head} sender=${sender} own=${own} first=${first} msg=${msg} view=${view} />
        ${row.quote && html`<${Quote} quote=${row.quote} view=${view} list=${list} />`}
        ${sid !== 0 && html`<${StreamParts} stream=${list.stream(sid)} running=${stream !== undefined} />`}
        <div class="message-body">
          ${isRecalled ? html`<${Recalled} msg=${msg} />` : html`<${Text} msg=${msg} stream=${stream} view=${view} />`}
        </div>
        ${msg && !isRecalled && html`<${Finish} msg=${msg} conv=${list.conv} />`}
        ${branch && html`<${Branch} branch=${branch} conv=${list.conv} running=${stream !== undefined} />`}
      </div>
      ${msg && !isRecalled && html`<${Actions} msg=${msg} conv=${list.conv} />`}
      ${stream && html`<${StopOthers} stream=${stream} view=${view} />`}
    </article>
  `;
}

/** Who and when. Within a group of messages it is there for those who hear the page. */
function Head({ sender, own, first, msg, view }) {
  const { model, say } = useApp();
  const name = own ? say("chat.you") : model.nameOf(sender, view);
  return html`
    <header class=${first ? "message-head" : "message-head only-read"}>
      <span class=${own ? "message-name only-read" : "message-name"}>${name}</span>
      ${msg && html`<${Time} ts=${msg.ts} />`}
    </header>
  `;
}

function Recalled({ msg }) {
  const { model, say } = useApp();
  const bySomebody = msg.x.recalled !== msg.sender && model.nameOf(msg.x.recalled);
  const words = bySomebody ? say("chat.recalled_by", { name: bySomebody }) : say("chat.recalled");
  return html`<p class="message-recalled">${words}</p>`;
}

function Text({ msg, stream, view }) {
  const { say } = useApp();
  const text = stream ? stream.text() : msg.text;
  if (stream && text === "") return html`<${Begins} stream=${stream} />`;
  return html`
    <${MessageText} text=${text} x=${msg?.x} view=${view} done=${!stream} />
    ${msg?.x?.edited && html`<${Edited} ts=${msg.x.edited} label=${say("chat.edited")} />`}
  `;
}

/** An answer without text so far: it waits, or is about to begin. */
function Begins({ stream }) {
  const { say } = useApp();
  const isQueued = stream.state === StreamState.QUEUED;
  const waits = say(stream.place ? "chat.queued_at" : "chat.queued", { place: stream.place });
  return html`
    <p class="message-begins">
      <span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>
      ${isQueued && html`<span class=${stream.place ? "" : "late"}>${waits}</span>`}
    </p>
  `;
}

const FINISH = {
  [EndReason.LENGTH]: "chat.cut",
  [EndReason.CANCELLED]: "chat.stopped",
  [EndReason.FILTERED]: "chat.filtered",
  [EndReason.ERROR]: "chat.broken",
  [EndReason.INTERRUPTED]: "chat.interrupted",
};

/** Why an answer ended before its end, and what can be done about it. */
function Finish({ msg, conv }) {
  const { model, say, words } = useApp();
  const key = FINISH[msg.x?.finish];
  if (key === undefined || msg.kind !== MsgKind.AI_REPLY) return null;
  const told = model.ended(conv).find((ended) => ended.seq === msg.seq);
  return html`
    <p class=${msg.x.finish === EndReason.ERROR ? "message-finish problem" : "message-finish"}>
      ${say(key)} ${told && told.detail !== "" && explain(words, told)}
    </p>
  `;
}

/** Which of several answers this is, and the way to the others. */
function Branch({ branch, conv, running }) {
  const app = useApp();
  const { at, seqs } = branch;
  const to = (index) => () => pick(app, conv, seqs[index]);
  const label = app.say("chat.branch", { number: at + 1, count: seqs.length });
  return html`
    <div class="message-branch" role="group" aria-label=${label}>
      <button
        type="button"
        class="icon-button small"
        aria-label=${app.say("chat.answer_before")}
        disabled=${running || at === 0}
        onClick=${to(at - 1)}
      >
        <${Icon} name="before" />
      </button>
      <span aria-hidden="true">${at + 1}/${seqs.length}</span>
      <button
        type="button"
        class="icon-button small"
        aria-label=${app.say("chat.answer_after")}
        disabled=${running || at === seqs.length - 1}
        onClick=${to(at + 1)}
      >
        <${Icon} name="next" />
      </button>
    </div>
  `;
}

/** What one may do with it: seen under the pointer or the focus, on touch screens always. */
function Actions({ msg, conv }) {
  const app = useApp();
  const view = app.model.view(conv);
  const items = view === undefined ? [] : actionsOf(app, view, msg);
  if (items.length === 0) return null;
  const quick = items.filter((item) => item.icon && !item.danger).slice(0, BUTTONS);
  return html`
    <div class="message-bar">
      ${quick.map(
        (item) => html`
          <button
            type="button"
            class="icon-button small message-quick"
            key=${item.id}
            aria-label=${item.label}
            title=${item.label}
            onClick=${item.run}
          >
            <${Icon} name=${item.icon} />
          </button>
        `,
      )}
      <${MenuButton}
        label=${app.say("chat.actions")}
        items=${items}
        className="icon-button small message-more"
      />
    </div>
  `;
}

/** In a room, an answer to somebody else can be stopped here; one's own are by the composer. */
function StopOthers({ stream, view }) {
  const app = useApp();
  if (view === undefined || view.row.kind === ConvKind.AI) return null;
  const { ask } = app.model.askOf(stream);
  if (view.messages.get(ask)?.sender === app.model.me) return null;
  return html`
    <div class="message-bar shown">
      <button
        type="button"
        class="icon-button small"
        aria-label=${app.say("action.stop")}
        title=${app.say("action.stop")}
        onClick=${() => stop(app, stream.sid)}
      >
        <${Icon} name="stop" />
      </button>
    </div>
  `;
}
