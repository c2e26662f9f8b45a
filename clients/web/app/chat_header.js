// What stands above a conversation: who it is with, and the way to its members and settings.

import { ConvKind } from "../sdk/client.js";
import { Avatar } from "./avatar_view.js";
import { BackHome } from "./back_home.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { html, useEffect, useSignal } from "./ui.js";

/** Members whose presence is followed for the line below the title. */
const FOLLOWED = 64;

/** The head of the pane of conversation `conv`; `view` is undefined until it is known. */
export function ChatHeader({ conv, view }) {
  const { model, route, say } = useApp();
  const others = view ? othersIn(model, view).slice(0, FOLLOWED) : [];
  useEffect(() => {
    model.follow("head", [conv], others);
    return () => void model.follow("head", []);
  }, [conv, others.join()]);
  const title = view ? model.titleOf(view) : "";
  const isOpen = route.at.value.info;
  const toggle = () => (isOpen ? route.back(`/c/${conv}`) : route.chat(conv, { info: true }));
  return html`
    <header class="pane-head chat-head">
      <${BackHome} />
      ${view && html`<${ConversationAvatar} view=${view} />`}
      <div class="grow">
        ${title && html`<h1 class="chat-title ellipsis">${title}</h1>`}
        <p class="chat-subtitle quiet ellipsis">${view && subtitle(model, view, say)}</p>
      </div>
      ${view &&
      html`
        <button
          type="button"
          class="icon-button"
          aria-label=${say("conversation.info")}
          title=${say("conversation.info")}
          aria-expanded=${isOpen ? "true" : "false"}
          onClick=${toggle}
        >
          <${Icon} name="info" />
        </button>
      `}
    </header>
    ${view?.row.notice && html`<${Notice} key=${conv} text=${view.row.notice} />`}
  `;
}

/** The picture of a conversation: of the other person, of the persona, or of the room. */
export function ConversationAvatar({ view, size = "medium" }) {
  const { model } = useApp();
  const { row } = view;
  const name = model.titleOf(view);
  if (row.kind === ConvKind.DIRECT) {
    const [other = 0] = othersIn(model, view);
    const online = model.isOnline(other);
    return html`<${Avatar} id=${other} name=${name} avatar=${model.avatarOf(other)} size=${size} online=${online} />`;
  }
  const own = row.avatar || (row.kind === ConvKind.AI ? model.avatarOf(row.persona, view) : 0);
  const id = row.kind === ConvKind.AI ? row.persona || row.id : row.id;
  return html`<${Avatar} id=${id} name=${name} avatar=${own} size=${size} />`;
}

/** Who is in a conversation, without oneself. */
export function othersIn(model, view) {
  return view
    .present()
    .map(({ user }) => user)
    .filter((user) => user !== model.me);
}

function subtitle(model, view, say) {
  const { row } = view;
  if (row.kind === ConvKind.DIRECT) {
    const [other = 0] = othersIn(model, view);
    return say(model.isOnline(other) ? "presence.online" : "presence.offline");
  }
  if (row.kind === ConvKind.AI) return aboutPersona(model, view, say);
  const count = view.present().length;
  const online = othersIn(model, view).filter((user) => model.isOnline(user)).length;
  const parts = [count > 0 ? say("conversation.members", { count }) : ""];
  if (online > 0) parts.push(say("conversation.online", { count: online }));
  const personas = row.personas?.length ?? 0;
  if (personas > 0) parts.push(say("conversation.personas", { count: personas }));
  return parts.filter(Boolean).join(" · ");
}

/** The persona's name where the title is another, and the model that answers where one is chosen. */
function aboutPersona(model, view, say) {
  const { persona, opt } = view.row;
  const name = persona ? model.nameOf(persona, view) : "";
  const chosen = opt?.model || (persona && model.directory.persona(persona)?.opt?.model);
  const parts = [name === model.titleOf(view) ? say("conversation.with_persona") : name, chosen];
  return parts.filter(Boolean).join(" · ");
}

/** The notice of a room in one line, or whole after a click. */
function Notice({ text }) {
  const { say } = useApp();
  const isWhole = useSignal(false);
  return html`
    <button
      type="button"
      class=${isWhole.value ? "notice whole" : "notice"}
      aria-expanded=${isWhole.value ? "true" : "false"}
      onClick=${() => (isWhole.value = !isWhole.value)}
    >
      <${Icon} name="bell" />
      <span class="only-read">${say("room.notice")}</span>
      <span class="notice-text">${text}</span>
    </button>
  `;
}
