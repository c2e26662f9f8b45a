// One's own settings; what is in them is loaded when they are opened.

import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { lazy } from "./lazy.js";
import { html } from "./ui.js";

const SettingsPage = lazy(() => import("./settings_page.js").then((module) => module.SettingsPage));

export function Settings() {
  const { route, say } = useApp();
  return html`
    <header class="pane-head">
      <button
        type="button"
        class="icon-button only-narrow"
        aria-label=${say("conversation.back")}
        onClick=${() => route.home()}
      >
        <${Icon} name="back" />
      </button>
      <h1 class="grow">${say("settings.title")}</h1>
    </header>
    <div class="pane-body">
      <div class="settings"><${SettingsPage} /></div>
    </div>
  `;
}
