// What stands above the field while a message is answered to or changed.

import { ClientError } from "../sdk/client.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { plainLine } from "./plain_line.js";
import { html, useEffect } from "./ui.js";

const SHOWN_CHARACTERS = 200;

/** The message that is answered to, with its author. */
export function QuoteBar({ conv, seq }) {
  const { model, client, say } = useApp();
  const view = model.view(conv);
  const msg = view?.messages.get(seq);
  useEffect(() => {
    if (msg !== undefined) return;
    client.getMessages(conv, [seq]).catch((error) => {
      if (!(error instanceof ClientError)) throw error;
    });
  }, [conv, seq]);
  const name = msg === undefined ? "" : model.nameOf(msg.sender, view);
  const text = msg?.x?.recalled ? say("chat.recalled") : (msg?.text ?? "");
  return html`
    <${Bar} conv=${conv} icon="quote" title=${name} cancel=${say("write.no_quote")}>
      ${plainLine(text.slice(0, SHOWN_CHARACTERS))}
    <//>
  `;
}

/** Says that the field holds a message that was sent before, and how that one is. */
export function EditBar({ conv, seq }) {
  const { model, say } = useApp();
  const text = model.view(conv)?.messages.get(seq)?.text ?? "";
  return html`
    <${Bar} conv=${conv} icon="edit" title=${say("write.editing")} cancel=${say("write.no_edit")}>
      ${plainLine(text.slice(0, SHOWN_CHARACTERS))}
    <//>
  `;
}

function Bar({ conv, icon, title, cancel, children }) {
  const { drafts } = useApp();
  return html`
    <div class="composer-bar">
      <${Icon} name=${icon} />
      <div class="grow">
        <div class="composer-bar-title ellipsis">${title}</div>
        <div class="quiet ellipsis">${children}</div>
      </div>
      <button
        type="button"
        class="icon-button"
        aria-label=${cancel}
        title=${cancel}
        onClick=${() => drafts.release(conv)}
      >
        <${Icon} name="close" />
      </button>
    </div>
  `;
}
