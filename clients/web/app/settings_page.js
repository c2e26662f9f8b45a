// All parts of the settings, one below the other.

import { UserKind } from "../sdk/messages.js";
import { LanguageChoice, ThemeChoice } from "./appearance.js";
import { useApp } from "./context.js";
import { NotificationSetting } from "./notifications.js";
import { About, AccountSettings } from "./settings_account.js";
import { DeviceSettings } from "./settings_devices.js";
import { MemorySettings } from "./settings_memories.js";
import { PasswordSettings } from "./settings_password.js";
import { ProfileSettings } from "./settings_profile.js";
import { Section } from "./settings_section.js";
import { UsageSettings } from "./settings_usage.js";
import { html } from "./ui.js";

export function SettingsPage() {
  const { model, say } = useApp();
  const isGuest = model.profile.value.kind === UserKind.GUEST;
  return html`
    <${ProfileSettings} />
    <${Section} title=${say("settings.this_device")}>
      <div class="settings-row">
        <${LanguageChoice} />
        <${ThemeChoice} />
      </div>
      <${NotificationSetting} />
    <//>
    <${MemorySettings} />
    <${UsageSettings} />
    ${!isGuest && html`<${PasswordSettings} />`}
    <${DeviceSettings} />
    <${AccountSettings} />
    <${About} />
  `;
}
