// Where one writes: the field with what belongs to it, or why one cannot write here now.

import { ConvKind, Link } from "../sdk/client.js";
import { isEditable, stop } from "./actions.js";
import { EditBar, QuoteBar } from "./composer_bars.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { useMentions } from "./mention_box.js";
import { readyText, roomLeft, submit } from "./sending.js";
import { ToolQuestions } from "./tool_question.js";
import { useTypingSignal } from "./typing_line.js";
import { html, useEffect, useId, useLayoutEffect, useMemo, useRef, useSignal } from "./ui.js";

export { TypingLine } from "./typing_line.js";

/** A connection that is back within this time is no news, in ms. */
const QUIET_MS = 700;
/** The longest time that setTimeout can wait. */
const TIMER_MAX = 2 ** 31 - 1;

const touch = matchMedia("(pointer: coarse)");
const growsByItself = CSS.supports("field-sizing", "content");

/** Everything below the list of messages of a conversation. */
export function Composer({ conv }) {
  const app = useApp();
  const view = app.model.view(conv);
  const closed = useClosed(app, view);
  return html`
    <div class="composer">
      <${ToolQuestions} conv=${conv} />
      ${closed
        ? html`<p class="composer-closed" role="status">${closed}</p>`
        : html`<${Field} key=${conv} conv=${conv} />`}
    </div>
  `;
}

/** Why one cannot write in a conversation now, "" if one can; follows the end of a muting. */
function useClosed({ model, say, words }, view) {
  const now = useSignal(Date.now());
  const mutedUntil = view?.members.get(model.me)?.row.mute_until ?? 0;
  useEffect(() => {
    now.value = Date.now();
    if (mutedUntil <= Date.now()) return undefined;
    const wait = Math.min(mutedUntil - Date.now() + 500, TIMER_MAX);
    const timer = setTimeout(() => (now.value = Date.now()), wait);
    return () => clearTimeout(timer);
  }, [mutedUntil]);
  if (view === undefined) return "";
  if (view.row.deleted) return say("write.deleted");
  if (view.left) return say("write.left");
  if (mutedUntil > now.value) return say("write.muted", { time: words.time(new Date(mutedUntil)) });
  return "";
}

function Field({ conv }) {
  const app = useApp();
  const { client, drafts, model, say } = app;
  const view = model.view(conv);
  const field = useRef(null);
  const hint = useId();
  const saving = useSignal(false);
  const draft = drafts.of(conv).value;
  // As it was when the change began: a change made elsewhere meanwhile is not overwritten.
  const before = useMemo(() => view?.messages.get(draft.edit) ?? null, [draft.edit]);
  const write = (text) => {
    drafts.set(conv, { text });
    if (draft.edit === 0) typing.wrote(text);
  };
  const typing = useTypingSignal(conv, view);
  const mentions = useMentions(field, view, write);
  const left = roomLeft(client, draft.text);
  const told = useHint(app, view, left);
  const sendable = readyText(draft.text).trim() !== "" && !(left < 0) && !saving.value;
  useGrowth(field, draft.text);
  useFocus(field, draft, app.route);

  const send = async () => {
    if (!sendable) return;
    mentions.shut();
    saving.value = draft.edit !== 0;
    const done = await submit(app, conv, { mentions: mentions.idsIn(draft.text), before });
    saving.value = false;
    if (done && draft.edit === 0) typing.sent();
    if (done) mentions.forget();
    field.current?.focus();
  };
  const pressed = (event) => {
    // Keys of an input method: Enter takes its word and sends nothing.
    if (event.isComposing || event.keyCode === 229 || mentions.pressed(event)) return;
    if (event.key === "Enter" && sendsBy(event)) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && (draft.quote !== 0 || draft.edit !== 0)) {
      event.preventDefault();
      drafts.release(conv);
    } else if (event.key === "ArrowUp" && draft.text === "" && draft.edit === 0) {
      if (editLast(app, view)) event.preventDefault();
    }
  };
  return html`
    ${draft.quote !== 0 && html`<${QuoteBar} conv=${conv} seq=${draft.quote} />`}
    ${draft.edit !== 0 && html`<${EditBar} conv=${conv} seq=${draft.edit} />`}
    <div class="composer-row">
      ${mentions.box}
      <textarea
        ref=${field}
        class="composer-field"
        rows="1"
        dir="auto"
        autocomplete="off"
        enterkeyhint=${touch.matches ? "enter" : "send"}
        aria-label=${say("chat.write")}
        aria-describedby=${hint}
        aria-invalid=${left < 0 ? "true" : "false"}
        placeholder=${say("chat.write")}
        value=${draft.text}
        ...${mentions.aria}
        onInput=${(event) => {
          write(event.target.value);
          mentions.follow();
        }}
        onSelect=${mentions.follow}
        onBlur=${mentions.shut}
        onKeyDown=${pressed}
      ></textarea>
      <${Buttons} conv=${conv} draft=${draft} sendable=${sendable} saving=${saving.value} send=${send} />
    </div>
    <p id=${hint} class=${left < 0 ? "composer-hint problem" : "composer-hint"} aria-live="polite">
      ${told}
    </p>
  `;
}

/** Send, and Stop while an answer runs: in the place of Send as long as nothing is written. */
function Buttons({ conv, draft, sendable, saving, send }) {
  const app = useApp();
  const { say, model } = app;
  const running = ownAnswers(model, conv);
  const stopAll = () => running.forEach(({ sid }) => stop(app, sid));
  const isEdit = draft.edit !== 0;
  const sends = isEdit || draft.text.trim() !== "" || running.length === 0;
  const label = say(isEdit ? "action.save" : "action.send");
  return html`
    ${running.length > 0 &&
    !isEdit &&
    html`
      <button
        type="button"
        class=${sends ? "icon-button composer-stop" : "icon-button composer-stop primary"}
        aria-label=${say("action.stop")}
        title=${say("action.stop")}
        onClick=${stopAll}
      >
        <${Icon} name="stop" />
      </button>
    `}
    ${sends &&
    html`
      <button
        type="button"
        class="icon-button primary composer-send"
        aria-label=${label}
        title=${label}
        aria-busy=${saving ? "true" : "false"}
        disabled=${!sendable}
        onPointerDown=${(event) => event.preventDefault()}
        onClick=${send}
      >
        <${Icon} name=${isEdit ? "check" : "send"} />
      </button>
    `}
  `;
}

/** The running answers that are for oneself: all of one's own talk, in rooms those one asked for. */
function ownAnswers(model, conv) {
  const view = model.view(conv);
  const running = model.streams(conv);
  if (view?.row.kind === ConvKind.AI) return running;
  return running.filter((stream) => view?.messages.get(model.askOf(stream).ask)?.sender === model.me);
}

/** Enter sends, except with Shift, and on touch screens where it is the only way to break a line. */
function sendsBy(event) {
  if (event.shiftKey || event.altKey) return false;
  return event.ctrlKey || event.metaKey || !touch.matches;
}

/** Begin to change one's last message, if it is held; whether there is one. */
function editLast({ model, drafts }, view) {
  const last = view?.list().findLast((msg) => isEditable(model, msg));
  if (last === undefined) return false;
  drafts.edit(view.conv, last.seq, last.text);
  return true;
}

/** What there is to know about sending: too long, offline, nobody there who answers. */
function useHint({ client, model, say }, view, left) {
  const isOffline = useSignal(false);
  const isWell = model.link.value.state === Link.ONLINE;
  useEffect(() => {
    if (isWell) {
      isOffline.value = false;
      return undefined;
    }
    const timer = setTimeout(() => (isOffline.value = true), QUIET_MS);
    return () => clearTimeout(timer);
  }, [isWell]);
  if (left !== null && left < 0) return say("write.too_long", { count: -left });
  if (isOffline.value) return say("write.offline");
  if (left !== null) return say("write.room", { count: left });
  const persona = view?.row.persona && model.directory.personas.value.get(view.row.persona);
  return persona?.deleted ? say("write.no_persona") : "";
}

/** As high as its text, within the bounds of the style sheet. */
function useGrowth(field, text) {
  useLayoutEffect(() => {
    if (growsByItself) return;
    const { style } = field.current;
    style.height = "auto";
    style.height = `${field.current.scrollHeight}px`;
  }, [text]);
}

/** Writing can begin at once: when a conversation is opened, and after Quote and Edit. */
function useFocus(field, draft, route) {
  useEffect(() => {
    const isBehind = route.at.peek().info || document.querySelector("dialog[open]");
    // On a phone the keyboard would cover what one came to read.
    if (!touch.matches && !isBehind) field.current.focus();
  }, []);
  // With the drawing, not after it: what is written at once must not meet a caret that moves.
  useLayoutEffect(() => {
    if (draft.quote === 0 && draft.edit === 0) return;
    const end = field.current.value.length;
    field.current.focus();
    field.current.setSelectionRange(end, end);
  }, [draft.quote, draft.edit]);
}
