// Signing out, erasing the account for good, and what this server is.

import { ClientError, Code } from "../sdk/client.js";
import { UserKind } from "../sdk/messages.js";
import { useApp } from "./context.js";
import { HAS_KEYS, PasswordField, TextField } from "./field.js";
import { Icon } from "./icons.js";
import { Dialog } from "./overlay.js";
import { explain } from "./problem.js";
import { Section, useReading } from "./settings_section.js";
import { html, useSignal } from "./ui.js";

export function AccountSettings() {
  const { model, overlay, say, session } = useApp();
  const isGuest = model.profile.value.kind === UserKind.GUEST;
  const leave = async () => {
    if (!isGuest || (await overlay.confirm(losing(say)))) await session.leave();
  };
  const erase = () => overlay.open((close) => html`<${EraseDialog} close=${close} />`);
  return html`
    <${Section} title=${say("settings.account")}>
      <div class="settings-row">
        <button type="button" class="button" onClick=${leave}>
          <${Icon} name="sign_out" />${say("account.sign_out")}
        </button>
        <button type="button" class="button plain danger-text" onClick=${erase}>
          <${Icon} name="delete" />${say("account.erase")}
        </button>
      </div>
    <//>
  `;
}

/** Nobody can sign in to a guest's account again. */
function losing(say) {
  return {
    title: say("account.leave_guest_title"),
    text: say("account.leave_guest_text"),
    yes: say("account.sign_out"),
    no: say("action.cancel"),
    danger: true,
  };
}

function EraseDialog({ close }) {
  const { api, model, say, session, words } = useApp();
  const { name = "", kind } = model.profile.value;
  const isGuest = kind === UserKind.GUEST;
  const given = useSignal({ name: "", password: "" });
  const problem = useSignal("");
  const isBusy = useSignal(false);
  const put = (field) => (text) => {
    given.value = { ...given.peek(), [field]: text };
    problem.value = "";
  };
  const isTyped = given.value.name.trim() === name && (isGuest || given.value.password !== "");
  const erase = async (event) => {
    event.preventDefault();
    if (!isTyped || isBusy.peek()) return;
    isBusy.value = true;
    try {
      const body = { password: given.peek().password };
      await session.erase(() => api.delete("/api/v1/me", body));
      close();
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      const isWrong = error.code === Code.BAD_CREDENTIALS;
      problem.value = isWrong ? say("settings.password_wrong") : explain(words, error);
    }
    isBusy.value = false;
  };
  return html`
    <${Dialog} title=${say("account.erase_title")} close=${close}>
      <p>${say("account.erase_text")}</p>
      <form class="form" onSubmit=${erase} aria-busy=${isBusy.value ? "true" : "false"} novalidate>
        <${TextField}
          label=${say("account.erase_name", { name })}
          value=${given.value.name}
          onInput=${put("name")}
          autocomplete="off"
          autocapitalize="off"
          autofocus=${HAS_KEYS}
          spellcheck=${false}
        />
        ${!isGuest &&
        html`
          <${PasswordField}
            label=${say("account.password")}
            autocomplete="current-password"
            value=${given.value.password}
            onInput=${put("password")}
          />
        `}
        ${problem.value && html`<p class="problem" role="alert">${problem.value}</p>`}
        <div class="dialog-actions">
          <button type="button" class="button" onClick=${() => close()}>${say("action.cancel")}</button>
          <button class="button danger" disabled=${!isTyped || isBusy.value}>${say("account.erase_yes")}</button>
        </div>
      </form>
    <//>
  `;
}

export function About() {
  const { api, say } = useApp();
  const { reading } = useReading(() => api.get("/health"), [api]);
  const version = reading.value.value?.version ?? "";
  return html`
    <footer class="settings-about quiet">
      <span>Parlance ${version}</span>
      <a href="/docs" target="_blank" rel="noopener">${say("settings.api")}</a>
    </footer>
  `;
}
