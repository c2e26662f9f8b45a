// One conversation in the list: what it is called, what was said last, and what is new.

import { ConvKind, MsgKind } from "../sdk/client.js";
import { ConversationAvatar } from "./chat_header.js";
import { useApp } from "./context.js";
import { conversationItems, isMuted, restore } from "./conversation_actions.js";
import { Icon } from "./icons.js";
import { plainLine } from "./plain_line.js";
import { MenuButton } from "./overlay.js";
import { html } from "./ui.js";

const COUNT_MAX = 99;
const DAY = 86_400_000;

/**
 * Props: `conv`; `isCurrent`; `stop`: whether Tab stops here; `place`, `total`: of the list;
 * `top`: in pixels. Plain values all: a row whose conversation is as before is not drawn again.
 */
export function ConversationRow({ conv, isCurrent, stop, place, total, top }) {
  const app = useApp();
  const { model, route, words, say } = app;
  const view = model.view(conv);
  if (view === undefined) return null;
  const title = model.titleOf(view) || say("conversation.untitled");
  const open = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    route.chat(conv);
  };
  return html`
    <li
      class=${isCurrent ? "conv-row current" : "conv-row"}
      style=${{ transform: `translateY(${top}px)` }}
      aria-setsize=${total}
      aria-posinset=${place}
    >
      <a
        class="conv-link"
        href=${`#/c/${conv}`}
        data-conv=${conv}
        tabindex=${stop ? 0 : -1}
        aria-current=${isCurrent ? "page" : undefined}
        onClick=${open}
      >
        <${ConversationAvatar} view=${view} />
        <span class="conv-lines">
          <span class="conv-top">
            <span class="conv-title ellipsis">${title}</span>
            ${view.my.pinned && html`<${Mark} icon="pin" text=${say("conversation.pinned")} />`}
            ${isMuted(view) && html`<${Mark} icon="volume_off" text=${say("conversation.muted")} />`}
            <time class="conv-time">${shortTime(words.locale, view.updated)}</time>
          </span>
          <span class="conv-bottom">
            <${LastLine} view=${view} isCurrent=${isCurrent} />
            <${News} view=${view} />
          </span>
        </span>
      </a>
      ${view.row.deleted
        ? html`
            <button type="button" class="button small conv-restore" tabindex=${stop ? 0 : -1} onClick=${() => restore(app, view)}>
              ${say("conversation.restore")}
            </button>
          `
        : html`
            <${MenuButton}
              label=${say("conversation.menu", { title })}
              items=${conversationItems(app, view)}
              className="icon-button conv-menu"
              tabIndex=${stop ? 0 : -1}
            />
          `}
    </li>
  `;
}

function Mark({ icon, text }) {
  return html`<span class="conv-mark"><${Icon} name=${icon} /><span class="only-read">${text}</span></span>`;
}

/** How much is new, and whether one is called by name. */
function News({ view }) {
  const { model, words, say } = useApp();
  const count = view.unread;
  if (count === 0) return null;
  const shown = count > COUNT_MAX ? `${COUNT_MAX}+` : words.number(count);
  return html`
    ${model.isCalled(view) &&
    html`<span class="conv-called"><span aria-hidden="true">@</span><span class="only-read">${say("conversation.called")}</span></span>`}
    <span class=${isMuted(view) ? "count muted" : "count"}>
      <span aria-hidden="true">${shown}</span>
      <span class="only-read">${say("conversation.unread", { count })}</span>
    </span>
  `;
}

/** Who does something now, or what is not sent, or what was said last. */
function LastLine({ view, isCurrent }) {
  const { model, drafts, say } = useApp();
  const { conv } = view;
  const line = (text, className = "", lead = "") =>
    html`<span class=${`conv-last ellipsis ${className}`}>${lead && html`<span class="conv-lead">${lead}</span> `}${text}</span>`;
  if (view.row.deleted) return line(say("conversation.deleted"));
  const [stream] = model.streams(conv);
  if (stream !== undefined) {
    const name = model.nameOf(stream.persona, view);
    return line(name ? say("conversation.answering", { name }) : say("conversation.answer_runs"), "busy");
  }
  const typing = model.typing(conv).map((user) => model.nameOf(user, view)).filter(Boolean);
  if (typing.length > 0) return line(say("chat.typing", { name: typing.join(", ") }), "busy");
  const draft = isCurrent ? "" : plainLine(drafts.of(conv).value.text);
  if (draft) return line(draft, "", say("conversation.draft"));
  if (model.failed(conv).length > 0) return line(say("conversation.not_sent"), "failed");
  const waiting = model.waiting(conv).at(-1);
  if (waiting) return line(plainLine(waiting.unsent.text), "waiting", say("conversation.sending"));
  const last = lastShown(view);
  return line(last ? lineOf(model, view, last, say) : view.lastSeq === 0 ? say("conversation.no_messages") : "");
}

/** The newest message that is not an answer put aside for another. */
function lastShown({ seqs, messages }) {
  for (let i = seqs.length - 1; i >= 0; i--) {
    const msg = messages.get(seqs[i]);
    if (!msg.x?.off) return msg;
  }
  return undefined;
}

function lineOf(model, view, { sender, kind, text, x }, say) {
  if (x?.recalled) return say("chat.recalled");
  const said = kind === MsgKind.IMAGE ? say("chat.image") : plainLine(text);
  if (sender === model.me) return say("conversation.you", { text: said });
  const name = view.row.kind === ConvKind.GROUP && sender ? model.nameOf(sender, view) : "";
  return name ? say("conversation.said", { name, text: said }) : said;
}

const formats = new Map();

function formatter(locale, name, options) {
  const key = `${locale} ${name}`;
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(locale, options));
  return formats.get(key);
}

/** The time of today, the weekday of this week, or the date. */
export function shortTime(locale, ms, now = new Date()) {
  if (!ms) return "";
  const date = new Date(ms);
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  if (ms >= midnight) return formatter(locale, "clock", { hour: "2-digit", minute: "2-digit" }).format(date);
  if (ms >= midnight - 6 * DAY) return formatter(locale, "weekday", { weekday: "short" }).format(date);
  if (date.getFullYear() === now.getFullYear()) {
    return formatter(locale, "day", { month: "short", day: "numeric" }).format(date);
  }
  return formatter(locale, "date", { year: "numeric", month: "numeric", day: "numeric" }).format(date);
}
