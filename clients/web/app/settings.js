// One's own settings; what is in them is loaded when they are opened.

import { BackHome } from "./back_home.js";
import { useApp } from "./context.js";
import { lazy } from "./lazy.js";
import { html } from "./ui.js";

const SettingsPage = lazy(() => import("./settings_page.js").then((module) => module.SettingsPage));

export function Settings() {
  const { say } = useApp();
  return html`
    <header class="pane-head">
      <${BackHome} />
      <h1 class="grow">${say("settings.title")}</h1>
    </header>
    <div class="pane-body">
      <div class="settings"><${SettingsPage} /></div>
    </div>
  `;
}
