// What one may do with a message, an answer or a refused message.

import { ClientError, EndReason, MsgKind } from "../sdk/client.js";

/** Ends after which an answer can be asked to go on. */
const CUT = new Set([EndReason.LENGTH, EndReason.CANCELLED, EndReason.ERROR, EndReason.INTERRUPTED]);

const isRecalled = (msg) => Boolean(msg.x?.recalled);
const isAnswer = (msg) => msg.kind === MsgKind.AI_REPLY;

/** Whether the text of a message is one's own to be changed. */
export function isEditable(model, msg) {
  return msg.sender === model.me && msg.kind === MsgKind.TEXT && !isRecalled(msg);
}

/**
 * What `app`'s person may do with a stored message (`msg`, a row of the SDK) of a conversation, for
 * `MenuButton`: [{id, label, icon, run, danger}], the most wanted first.
 */
export function actionsOf(app, view, msg) {
  if (isRecalled(msg) || msg.kind === MsgKind.SYSTEM) return [];
  const { conv } = view;
  const ways = {
    copy: ["action.copy", "copy", () => copyText(app, msg.text)],
    quote: ["action.quote", "quote", () => app.drafts.quote(conv, msg.seq)],
    ask: ["action.ask", "refresh", () => answer(app, conv, msg.seq)],
    regenerate: ["action.regenerate", "refresh", () => regenerate(app, conv, msg.seq)],
    continue: ["action.continue", "next", () => goOn(app, conv, msg.seq)],
    edit: ["action.edit", "edit", () => app.drafts.edit(conv, msg.seq, msg.text)],
    link: ["action.copy_link", "link", () => copyText(app, linkTo(conv, msg.seq))],
    recall: ["action.recall", "undo", () => recall(app, conv, msg.seq)],
  };
  const open = openWays(app.model, view, msg);
  return Object.entries(ways)
    .filter(([id]) => open.has(id))
    .map(([id, [label, icon, run]]) => {
      return { id, label: app.say(label), icon, run, danger: id === "recall" };
    });
}

function openWays(model, view, msg) {
  const open = new Set(["copy", "link"]);
  if (!mayWrite(view)) return open;
  open.add("quote");
  const isLast = msg.seq === view.lastSeq;
  if (isEditable(model, msg)) open.add("edit");
  if (msg.sender === model.me || model.isManager(view)) open.add("recall");
  if (!isAnswer(msg)) {
    const runs = model.streams(view.conv).length > 0;
    if (view.row.persona && isLast && !runs) open.add("ask");
  } else if (msg.x?.sid) {
    // A greeting has no sid: it answers nothing that could be asked again.
    open.add("regenerate");
    if (CUT.has(msg.x.finish) && isLast) open.add("continue");
  }
  return open;
}

/** Whether a conversation can be written in, by those who are not muted there. */
export function mayWrite(view) {
  return !view.left && !view.row.deleted;
}

/** Where a message is, as an address that can be given to others of the conversation. */
export function linkTo(conv, seq) {
  return `${location.origin}/#/c/${conv}/at/${seq}`;
}

/** Put text on the clipboard and say so. */
export async function copyText({ overlay, say }, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https or the permission, browsers have no such clipboard for pages.
    if (!isCopiedByCommand(text)) {
      overlay.say(say("action.not_copied"), "error");
      return;
    }
  }
  overlay.say(say("action.copied"));
}

/** The older way: what is chosen in a field is copied as if by the keyboard. */
function isCopiedByCommand(text) {
  const before = document.activeElement;
  const field = document.createElement("textarea");
  field.className = "only-read";
  field.inputMode = "none";
  field.value = text;
  document.body.append(field);
  field.focus({ preventScroll: true });
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  before?.focus({ preventScroll: true });
  return isDone;
}

/** Take a message back, once that was confirmed. */
export async function recall(app, conv, seq) {
  const { overlay, say, client } = app;
  const sure = await overlay.confirm({
    title: say("recall.title"),
    text: say("recall.text"),
    yes: say("action.recall"),
    no: say("action.cancel"),
    danger: true,
  });
  if (sure) await tried(app, () => client.recall(conv, seq));
}

/** Ask for an answer to one's own message `seq`. */
export const answer = (app, conv, seq) => tried(app, () => app.client.reply(conv, seq));

/** Ask for another answer beside the one at `seq`. */
export const regenerate = (app, conv, seq) => tried(app, () => app.client.regenerate(conv, seq));

/** Ask for more of the answer at `seq`. */
export const goOn = (app, conv, seq) =>
  tried(app, async () => {
    const { sid } = await app.client.continueAnswer(conv, seq);
    app.model.noteContinued(conv, sid);
  });

/** Choose the answer at `seq` among its siblings. */
export const pick = (app, conv, seq) => tried(app, () => app.client.pick(conv, seq));

/** End a running answer; what there is of it stays. */
export const stop = (app, sid) => tried(app, () => app.client.cancel(sid));

/** Send a refused message (of `Model.failed`) once more, under the same id. */
export function retryFailed(app, conv, { cid, text, x }) {
  const { client, model } = app;
  try {
    client.post(conv, text, { x, cid });
    model.forgetFailed(conv, cid);
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    app.overlay.complain(error);
  }
}

/** Forget a refused message. */
export function dropFailed({ model }, conv, { cid }) {
  model.forgetFailed(conv, cid);
}

/** Put the text of a refused message back into the field, to be changed. */
export function reviseFailed({ drafts, model }, conv, { cid, text, x }) {
  const written = drafts.of(conv).peek().text;
  drafts.release(conv);
  drafts.set(conv, { text: written.trim() ? `${text}\n${written}` : text, quote: x?.quote ?? 0 });
  model.forgetFailed(conv, cid);
}

/** Do something that the server may refuse; true when it did not. */
async function tried(app, work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    app.overlay.complain(error);
    return false;
  }
}
