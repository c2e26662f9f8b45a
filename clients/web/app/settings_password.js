// A new password; it ends the sign-ins of all other devices.

import { ClientError, Code } from "../sdk/client.js";
import { useApp } from "./context.js";
import { lengthOf, PasswordField } from "./field.js";
import { explain } from "./problem.js";
import { Section } from "./settings_section.js";
import { html, useSignal } from "./ui.js";

const PASSWORD_MIN = 8;

export function PasswordSettings() {
  const { model, overlay, say, session, words } = useApp();
  const given = useSignal({ old: "", next: "" });
  const problems = useSignal({});
  const isBusy = useSignal(false);
  const put = (name) => (text) => {
    given.value = { ...given.peek(), [name]: text };
    problems.value = {};
  };
  const sent = async (event) => {
    event.preventDefault();
    const { old, next } = given.peek();
    if (isBusy.peek()) return;
    if (!old) problems.value = { old: say("account.password_missing") };
    else if (lengthOf(next) < PASSWORD_MIN) problems.value = { next: say("problem.bad_password") };
    else await change(old, next);
  };
  const change = async (old, next) => {
    isBusy.value = true;
    try {
      await session.changePassword(old, next);
      given.value = { old: "", next: "" };
      overlay.say(say("settings.password_changed"));
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      const isWrong = error.code === Code.BAD_CREDENTIALS;
      const text = isWrong ? say("settings.password_wrong") : explain(words, error);
      problems.value = { [isWrong ? "old" : "next"]: text };
    }
    isBusy.value = false;
  };
  return html`
    <${Section} title=${say("settings.password")} hint=${say("settings.password_hint")}>
      <form class="form" onSubmit=${sent} aria-busy=${isBusy.value ? "true" : "false"} novalidate>
        <input
          type="text"
          autocomplete="username"
          name="username"
          aria-label=${say("account.name")}
          value=${model.profile.value.name ?? ""}
          readonly
          hidden
        />
        <${PasswordField}
          label=${say("settings.password_old")}
          autocomplete="current-password"
          value=${given.value.old}
          onInput=${put("old")}
          problem=${problems.value.old}
        />
        <${PasswordField}
          label=${say("settings.password_new")}
          autocomplete="new-password"
          hint=${say("account.password_hint")}
          value=${given.value.next}
          onInput=${put("next")}
          problem=${problems.value.next}
        />
        <div class="dialog-actions">
          <button class="button" disabled=${isBusy.value}>${say("settings.password_change")}</button>
        </div>
      </form>
    <//>
  `;
}
