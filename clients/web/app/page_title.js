// What the tab says: how much is new, and where one is.

import { useApp } from "./context.js";
import { isMuted } from "./conversation_actions.js";
import { useEffect } from "./ui.js";

const NAME = "Parlance";
const ICON = "/icon.svg";
const ICON_NEWS = "/icon_news.svg";

/** Unread messages of all conversations that may disturb. */
export function unreadInAll(views) {
  const loud = views.filter((view) => !view.my.archived && !isMuted(view));
  return loud.reduce((sum, view) => sum + view.unread, 0);
}

/** Draws nothing; keeps title and icon of the tab. */
export function PageTitle() {
  const { model, route, words } = useApp();
  const count = unreadInAll(model.convs.value);
  const { conv } = route.at.value;
  const view = conv ? model.view(conv) : undefined;
  const where = view ? model.titleOf(view) : "";
  useEffect(() => {
    const lead = count > 0 ? `(${words.number(count)}) ` : "";
    document.title = lead + (where ? `${where} · ${NAME}` : NAME);
    showIcon(count > 0 ? ICON_NEWS : ICON);
  }, [count, where, words.locale]);
  useEffect(
    () => () => {
      document.title = NAME;
      showIcon(ICON);
    },
    [],
  );
  return null;
}

function showIcon(icon) {
  const link = document.querySelector('link[rel="icon"]');
  if (link.getAttribute("href") !== icon) link.setAttribute("href", icon);
}
