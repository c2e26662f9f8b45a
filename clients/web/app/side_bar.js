// The side bar: oneself, the ways to everything else, and the conversations.

import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { ConversationList } from "./conversation_list.js";
import { Icon } from "./icons.js";
import { LeaveWhenGone } from "./leaving.js";
import { Notifier } from "./notifications.js";
import { MenuButton } from "./overlay.js";
import { PageTitle } from "./page_title.js";
import { html } from "./ui.js";

/** Dialogs that are rarely opened come when they are. */
const rooms = () => import("./new_room.js");

export function SideBar() {
  const app = useApp();
  const { route, overlay, say } = app;
  const opened = (work) => () => rooms().then(work).catch((error) => overlay.complain(error));
  const items = [
    { id: "persona", icon: "persona", label: say("room.new_persona"), run: () => route.go("/personas") },
    { id: "person", icon: "person", label: say("room.new_person"), run: opened((it) => it.writeToPerson(app)) },
    { id: "group", icon: "group", label: say("room.new_group"), run: opened((it) => it.makeGroup(app)) },
  ];
  return html`
    <nav class="side" aria-label=${say("conversation.list")}>
      <${PageTitle} />
      <${LeaveWhenGone} />
      <${Notifier} />
      <h1 class="only-read only-narrow">${say("conversation.list")}</h1>
      <div class="side-head">
        <${Me} />
        <${SideLink} to="/personas" icon="persona" label=${say("persona.list")} />
        <${MenuButton} icon="add" label=${say("conversation.new")} items=${items} className="icon-button side-new" />
      </div>
      <${ConversationList} />
    </nav>
  `;
}

/** Oneself, and the way to one's settings. */
function Me() {
  const { model, route, say } = useApp();
  const { id, name, nick, avatar } = model.profile.value;
  const shown = nick || name || "";
  const isThere = route.at.value.view === "settings";
  return html`
    <a
      class="side-me grow"
      href="#/settings"
      title=${say("settings.title")}
      aria-current=${isThere ? "page" : undefined}
      onClick=${(event) => goThere(event, route, "/settings")}
    >
      <${Avatar} id=${id ?? model.me} name=${shown} avatar=${avatar ?? 0} />
      <span class="side-name ellipsis">${shown}</span>
      <span class="only-read">${say("settings.title")}</span>
    </a>
  `;
}

function SideLink({ to, icon, label }) {
  const { route } = useApp();
  const isThere = route.at.value.view === to.slice(1);
  return html`
    <a
      class="icon-button"
      href=${`#${to}`}
      aria-label=${label}
      title=${label}
      aria-current=${isThere ? "page" : undefined}
      onClick=${(event) => goThere(event, route, to)}
    >
      <${Icon} name=${icon} />
    </a>
  `;
}

/** A plain click stays in the page and leaves a step to go back to. */
function goThere(event, route, path) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  route.go(path);
}
