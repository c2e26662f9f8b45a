// The panel beside a conversation: its members and its settings; on a phone, a view of its own.

import { ConvKind } from "../sdk/client.js";
import { ConversationAvatar, othersIn } from "./chat_header.js";
import { useApp } from "./context.js";
import { changeRemark, isMuted, muteForMe, remove, tryTo } from "./conversation_actions.js";
import { Icon } from "./icons.js";
import { MemberList } from "./member_list.js";
import { RoomPicture } from "./room_picture.js";
import { RoomPersonas, RoomRules, RoomTexts, TalkSettings } from "./room_settings.js";
import { html, useEffect, useRef } from "./ui.js";

/** Members whose presence is followed. */
const FOLLOWED = 200;

export function RoomPanel({ conv }) {
  const { model, route, say } = useApp();
  const view = model.view(conv);
  const others = view ? othersIn(model, view).slice(0, FOLLOWED) : [];
  const element = useRef(null);
  useEffect(() => {
    model.load(conv).catch(() => {});
    const before = document.activeElement;
    element.current.querySelector("button").focus({ preventScroll: true });
    return () => before?.focus?.({ preventScroll: true });
  }, [conv]);
  useEffect(() => {
    model.follow("panel", [conv], others);
    return () => void model.follow("panel", []);
  }, [conv, others.join()]);
  const close = () => route.back(`/c/${conv}`);
  const pressed = (event) => {
    // What is being written in a field is not thrown away.
    const isWriting = event.target.matches("input:not([type=checkbox], [type=radio]), textarea");
    if (event.key === "Escape" && !event.defaultPrevented && !isWriting) close();
  };
  return html`
    <aside class="panel" ref=${element} aria-label=${say("conversation.info")} onKeyDown=${pressed}>
      <header class="pane-head">
        <button type="button" class="icon-button" aria-label=${say("room.close_panel")} onClick=${close}>
          <span class="only-narrow"><${Icon} name="back" /></span>
          <span class="only-wide"><${Icon} name="close" /></span>
        </button>
        <h2 class="grow ellipsis">${say("conversation.info")}</h2>
      </header>
      <div class="panel-body">${view?.row.kind && html`<${Parts} view=${view} />`}</div>
    </aside>
  `;
}

function Parts({ view }) {
  const { model, say } = useApp();
  const { kind, persona } = view.row;
  const isGroup = kind === ConvKind.GROUP;
  const title = model.titleOf(view);
  return html`
    <div class="panel-top">
      ${isGroup && model.isManager(view)
        ? html`<${RoomPicture} view=${view} />`
        : html`<${ConversationAvatar} view=${view} size="large" />`}
      <p class="panel-title">${title}</p>
      ${kind === ConvKind.AI && persona && html`<p class="quiet">${say("room.with", { name: model.nameOf(persona, view) })}</p>`}
      ${kind === ConvKind.DIRECT && html`<${AboutPerson} view=${view} />`}
    </div>
    ${isGroup && html`<${RoomTexts} view=${view} />`}
    ${kind === ConvKind.AI && html`<${RoomTexts} view=${view} isTalk />`}
    ${isGroup && html`<${MemberList} view=${view} />`}
    ${isGroup && html`<${RoomPersonas} view=${view} />`}
    ${kind === ConvKind.AI && html`<${TalkSettings} view=${view} />`}
    ${isGroup && html`<${RoomRules} view=${view} />`}
    <${MyView} view=${view} />
    <${Ending} view=${view} />
  `;
}

function AboutPerson({ view }) {
  const { model, say } = useApp();
  const [other = 0] = othersIn(model, view);
  const person = model.directory.person(other);
  const about = [person?.name, say(model.isOnline(other) ? "presence.online" : "presence.offline")];
  return html`
    <p class="quiet">${about.filter(Boolean).join(" · ")}</p>
    ${person?.bio && html`<p class="panel-text">${person.bio}</p>`}
  `;
}

/** What only oneself sees of a conversation. */
function MyView({ view }) {
  const app = useApp();
  const { client, say } = app;
  const { conv, my } = view;
  const set = (fields) => tryTo(app, () => client.changeMyView(conv, fields));
  const muted = isMuted(view);
  const box = (key, isOn, change) => html`
    <label class="switch-line">
      <input type="checkbox" checked=${isOn} onChange=${change} />
      <span>${say(key)}</span>
    </label>
  `;
  const mute = async (event) => {
    if (muted) return set({ mute_until: 0 });
    const input = event.target;
    await muteForMe(app, view);
    // Nothing was chosen: the box says so again.
    input.checked = isMuted(view);
    return undefined;
  };
  return html`
    <section class="panel-part">
      <h3>${say("room.for_me")}</h3>
      <button type="button" class="panel-row" onClick=${() => changeRemark(app, view)}>
        <span>${say("conversation.remark")}</span>
        <span class="quiet ellipsis">${my.remark || say("room.none")}</span>
        <${Icon} name="next" />
      </button>
      ${box("room.box_pinned", Boolean(my.pinned), () => set({ pinned: !my.pinned }))}
      ${box("room.box_muted", muted, mute)}
      ${box("room.box_archived", Boolean(my.archived), () => set({ archived: !my.archived }))}
    </section>
  `;
}

function Ending({ view }) {
  const app = useApp();
  const { model, say } = app;
  const leaves = model.leaves(view);
  return html`
    <section class="panel-part">
      ${!leaves && view.row.kind === ConvKind.GROUP && html`<p class="quiet">${say("room.owner_leaves")}</p>`}
      <button type="button" class="button panel-danger" onClick=${() => remove(app, view)}>
        <${Icon} name=${leaves ? "sign_out" : "delete"} />
        ${say(leaves ? "conversation.leave" : "conversation.delete")}
      </button>
    </section>
  `;
}
