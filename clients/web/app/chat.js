// The pane of one conversation: its head, its messages, and the field below them.

import { ChatHeader } from "./chat_header.js";
import { Composer, TypingLine } from "./composer.js";
import { useApp } from "./context.js";
import { MessageList } from "./message_list.js";
import { html } from "./ui.js";

/** Conversation `conv`, at message `seq` (0: at what is new). */
export function Chat({ conv, seq }) {
  const { model } = useApp();
  const view = model.view(conv);
  const isKnown = view?.row.kind !== undefined;
  return html`
    <${ChatHeader} conv=${conv} view=${view} />
    <${MessageList} conv=${conv} seq=${seq} />
    ${isKnown && html`<${TypingLine} conv=${conv} view=${view} /><${Composer} conv=${conv} view=${view} />`}
  `;
}
