// Small parts that several kinds of rows are made of: whose, when, and what is answered to.

import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { plainLine } from "./plain_line.js";
import { html } from "./ui.js";

/** The picture of a person or persona. */
export function Face({ id, view }) {
  const { model } = useApp();
  const name = model.nameOf(id, view);
  return html`<${Avatar} id=${id} name=${name} avatar=${model.avatarOf(id, view)} size="small" />`;
}

/** The time of day; the whole date when one points at it. */
export function Time({ ts }) {
  const { words } = useApp();
  const date = new Date(ts);
  const whole = format(words.locale, "whole", { dateStyle: "full", timeStyle: "medium" }, date);
  const short = format(words.locale, "clock", { hour: "2-digit", minute: "2-digit" }, date);
  return html`<time class="message-time" datetime=${date.toISOString()} title=${whole}>${short}</time>`;
}

/** Says that a message was changed, and when. */
export function Edited({ ts, label }) {
  const { words } = useApp();
  const whole = format(words.locale, "whole", { dateStyle: "full", timeStyle: "medium" }, new Date(ts));
  return html`<span class="message-edited" title=${whole}>${label}</span>`;
}

/** Making a format is slow; there are few. */
const formats = new Map();

function format(locale, name, options, date) {
  const key = `${locale} ${name}`;
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(locale, options));
  return formats.get(key).format(date);
}

/** A day in words. */
export function dateOf(locale, date) {
  const sameYear = date.getFullYear() === new Date().getFullYear();
  const year = sameYear ? {} : { year: "numeric" };
  const options = { weekday: "long", month: "long", day: "numeric", ...year };
  return format(locale, sameYear ? "day" : "day and year", options, date);
}

/** The beginning of the message that is answered to; leads to it. */
export function Quote({ quote, view, list }) {
  const { model, say } = useApp();
  const { seq, msg } = quote;
  const name = msg ? model.nameOf(msg.sender, view) : "";
  return html`
    <button
      type="button"
      class="message-quote"
      title=${say("chat.to_quoted")}
      onClick=${() => list.goTo(seq)}
    >
      <span class="message-quote-name ellipsis">${name}</span>
      <span class="ellipsis">${quoteWords(msg, say)}</span>
    </button>
  `;
}

function quoteWords(msg, say) {
  if (msg === undefined) return "…";
  return msg === null || msg.x?.recalled ? say("chat.recalled") : plainLine(msg.text);
}
