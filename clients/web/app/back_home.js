// On a narrow screen: back to the list of conversations.

import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { html } from "./ui.js";

/** The first thing in the head of a view; wide screens show the list beside it and need none. */
export function BackHome() {
  const { route, say } = useApp();
  return html`
    <button
      type="button"
      class="icon-button only-narrow"
      aria-label=${say("conversation.back")}
      onClick=${() => route.back("/")}
    >
      <${Icon} name="back" />
    </button>
  `;
}
