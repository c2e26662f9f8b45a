// What one may do with a conversation as a whole; the list and the panel offer it.

import { ConvKind } from "../sdk/client.js";
import { Dialog } from "./overlay.js";
import { html, useId, useSignal } from "./ui.js";

const HOUR = 3_600_000;
/** How long one can mute, in ms; 0 stands for "until I say otherwise". */
const MUTES = [
  ["room.mute_hour", HOUR],
  ["room.mute_8_hours", 8 * HOUR],
  ["room.mute_week", 7 * 24 * HOUR],
  ["room.mute_always", 0],
];
/** Ms since 1970 that no clock of ours reaches: the end of "always". */
const FOREVER = 9_999_999_999_999;
const REMARK_MAX = 64;

/** Whether one wants no sound and no bright count of a conversation just now. */
export const isMuted = (view, now = Date.now()) => (view.my.mute_until ?? 0) > now;

/** What the menu of a conversation offers, for `MenuButton`. */
export function conversationItems(app, view) {
  const { client, model, say } = app;
  const { conv, my, unread, lastSeq } = view;
  const set = (fields) => () => tryTo(app, () => client.changeMyView(conv, fields));
  const items = [
    my.pinned
      ? { id: "pin", icon: "pin", label: say("conversation.unpin"), run: set({ pinned: false }) }
      : { id: "pin", icon: "pin", label: say("conversation.pin"), run: set({ pinned: true }) },
    isMuted(view)
      ? { id: "mute", icon: "bell", label: say("conversation.unmute"), run: set({ mute_until: 0 }) }
      : { id: "mute", icon: "volume_off", label: say("conversation.mute"), run: () => muteForMe(app, view) },
    my.archived
      ? { id: "archive", icon: "archive", label: say("conversation.unarchive"), run: set({ archived: false }) }
      : { id: "archive", icon: "archive", label: say("conversation.archive"), run: set({ archived: true }) },
    { id: "remark", icon: "edit", label: say("conversation.remark"), run: () => changeRemark(app, view) },
  ];
  if (unread > 0) {
    const run = () => client.mark(conv, lastSeq);
    items.unshift({ id: "read", icon: "check", label: say("conversation.mark_read"), run });
  }
  const leaves = model.leaves(view);
  items.push({
    id: "delete",
    icon: leaves ? "sign_out" : "delete",
    label: say(leaves ? "conversation.leave" : "action.delete"),
    danger: true,
    run: () => remove(app, view),
  });
  return items;
}

/** Delete, leave or put away, after a yes; and go where there is something to see. */
export async function remove(app, view) {
  const { client, model, overlay, say } = app;
  const kind = removalOf(model, view);
  const yes = await overlay.confirm({
    title: say(`conversation.${kind}_title`, { title: model.titleOf(view) }),
    text: say(`conversation.${kind}_text`),
    yes: say(kind === "leave" ? "conversation.leave" : "action.delete"),
    no: say("action.cancel"),
    danger: true,
  });
  if (!yes) return;
  await tryTo(app, () => client.dropConversation(view.conv));
}

function removalOf(model, view) {
  if (view.row.kind === ConvKind.DIRECT) return "put_away";
  if (view.row.kind === ConvKind.AI) return "delete";
  return model.leaves(view) ? "leave" : "delete_room";
}

/** Bring back what was deleted. */
export async function restore(app, view) {
  await tryTo(app, () => app.client.restoreConversation(view.conv));
}

/** Ask for how long one wants to hear nothing of a conversation. */
export async function muteForMe(app, view) {
  const ms = await askHowLong(app, app.say("conversation.mute"));
  if (ms === undefined) return;
  const until = ms === 0 ? FOREVER : Date.now() + ms;
  await tryTo(app, () => app.client.changeMyView(view.conv, { mute_until: until }));
}

/** Ask for a length of time; resolves with ms, 0 for "always", undefined for none. */
export function askHowLong({ overlay, say }, title, choices = MUTES) {
  return overlay.open(
    (close) => html`
      <${Dialog} title=${title} close=${close}>
        <div class="choices">
          ${choices.map(
            ([key, ms]) => html`
              <button type="button" class="button" key=${key} onClick=${() => close(ms)}>
                ${say(key)}
              </button>
            `,
          )}
        </div>
      <//>
    `,
  );
}

/** Ask for a name that only oneself sees. */
export async function changeRemark(app, view) {
  const { overlay, say } = app;
  const before = view.my.remark ?? "";
  const text = await overlay.open(
    (close) => html`
      <${Dialog} title=${say("conversation.remark")} close=${close}>
        <${RemarkForm} say=${say} text=${before} close=${close} />
      <//>
    `,
  );
  if (text === undefined || text === before) return;
  await tryTo(app, () => app.client.changeMyView(view.conv, { remark: text }));
}

function RemarkForm({ say, text, close }) {
  const typed = useSignal(text);
  const id = useId();
  const done = (event) => {
    event.preventDefault();
    close(typed.peek().trim());
  };
  return html`
    <form class="form" onSubmit=${done}>
      <div class="field">
        <label class="label" for=${id}>${say("conversation.remark_label")}</label>
        <input
          class="input"
          id=${id}
          autofocus
          aria-describedby=${`${id}-hint`}
          maxlength=${REMARK_MAX}
          value=${typed.value}
          onInput=${(event) => (typed.value = event.target.value)}
        />
        <span class="hint" id=${`${id}-hint`}>${say("conversation.remark_hint")}</span>
      </div>
      <div class="dialog-actions">
        <button type="button" class="button" onClick=${() => close()}>${say("action.cancel")}</button>
        <button type="submit" class="button primary">${say("action.save")}</button>
      </div>
    </form>
  `;
}

/** Do something that the server may refuse, and tell so; true when it was done. */
export async function tryTo({ overlay }, work) {
  try {
    await work();
    return true;
  } catch (error) {
    overlay.complain(error);
    return false;
  }
}
