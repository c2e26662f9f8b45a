// The messages of a conversation, with what is said when there are none.

import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { MessagePane } from "./message_pane.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./ui.js";

/** The messages of `conv`, begun at message `seq` (0: at what is new). */
export function MessageList({ conv, seq }) {
  const app = useApp();
  const scroller = useRef(null);
  const [pane] = useState(() => new MessagePane(app, conv));
  const shown = useRef(seq);
  useLayoutEffect(() => {
    pane.attach(scroller.current, seq);
    return () => pane.close();
  }, [pane]);
  useLayoutEffect(() => {
    pane.app.value = app;
  }, [app]);
  useEffect(() => {
    if (seq !== 0 && seq !== shown.current) pane.jump(seq);
    shown.current = seq;
  }, [seq]);
  return html`
    <div class="messages">
      <div
        class="messages-scroller"
        ref=${scroller}
        role="log"
        aria-live="off"
        aria-label=${app.say("chat.messages")}
        aria-busy=${pane.phase.value === "loading" ? "true" : "false"}
      ></div>
      <div class="only-read" role="status">${pane.said.value}</div>
      <${Phase} pane=${pane} seq=${seq} />
      <${ToEnd} pane=${pane} conv=${conv} />
    </div>
  `;
}

/** What is said in the place of messages. */
function Phase({ pane, seq }) {
  const { say } = useApp();
  switch (pane.phase.value) {
    case "loading":
      return html`
        <div class="messages-note late">
          <span class="spinner" aria-hidden="true"></span>${say("chat.loading")}
        </div>
      `;
    case "empty":
      return html`<p class="messages-note">${say("chat.empty")}</p>`;
    case "missing":
      return html`<p class="messages-note" role="status">${say("chat.no_such")}</p>`;
    case "failed":
      return html`
        <div class="messages-note" role="status">
          <p>${say("chat.not_loaded")}</p>
          <button type="button" class="button" onClick=${() => pane.open(seq)}>
            ${say("action.try_again")}
          </button>
        </div>
      `;
    default:
      return null;
  }
}

/** The way back to the newest message, with how many are new there. */
function ToEnd({ pane, conv }) {
  const { say, route } = useApp();
  const { shown, count } = pane.below.value;
  if (!shown || pane.phase.value !== "ready") return null;
  const go = () => {
    if (route.at.peek().seq !== 0) route.chat(conv, { replace: true });
    pane.toEnd();
  };
  const news = count > 0 ? `, ${say("chat.new_messages", { count })}` : "";
  const label = say("chat.to_end") + news;
  return html`
    <button type="button" class="to-end" aria-label=${label} title=${label} onClick=${go}>
      <${Icon} name="down" />
      ${count > 0 && html`<span class="count">${count > 999 ? "999+" : count}</span>`}
    </button>
  `;
}
