// The picture of a group, which those who manage it can change.

import { AvatarPicker, sendPicture, storedPicture } from "./avatar_picker.js";
import { useApp } from "./context.js";
import { tryTo } from "./conversation_actions.js";
import { html, useEffect, useSignal } from "./ui.js";

/** What is chosen is stored at once. */
export function RoomPicture({ view }) {
  const app = useApp();
  const { api, client, model } = app;
  const stored = view.row.avatar ?? 0;
  const picture = useSignal(storedPicture(stored));
  useEffect(() => {
    picture.value = storedPicture(stored);
  }, [stored]);
  const store = async (chosen) => {
    picture.value = chosen;
    const done = await tryTo(app, async () => {
      const avatar = await sendPicture(api, chosen);
      await client.changeConversation(view.conv, { avatar });
    });
    if (!done) picture.value = storedPicture(view.row.avatar ?? 0);
  };
  return html`<${AvatarPicker} id=${view.row.id} name=${model.titleOf(view)} value=${picture.value} onChange=${store} />`;
}
