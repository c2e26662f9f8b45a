// Takes one out of a conversation that is gone: left, deleted, or one was removed from it.

import { useApp } from "./context.js";
import { useEffect, useRef } from "./ui.js";

/** Draws nothing; says so, and shows the list instead. */
export function LeaveWhenGone() {
  const { model, overlay, route, say } = useApp();
  const { conv } = route.at.value;
  const view = conv ? model.view(conv) : undefined;
  const isGone = Boolean(view && (view.left || view.row.deleted));
  const before = useRef({ conv: 0, isGone: false });
  useEffect(() => {
    const was = before.current;
    before.current = { conv, isGone };
    // One may look at a conversation that was deleted before.
    if (!isGone || was.conv !== conv || was.isGone) return;
    overlay.say(say("conversation.gone", { title: model.titleOf(view) || say("conversation.untitled") }));
    route.go("/", { replace: true });
  }, [conv, isGone]);
  return null;
}
