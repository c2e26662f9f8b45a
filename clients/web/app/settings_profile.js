// How others see one: picture, display name, a few words.

import { ClientError } from "../sdk/client.js";
import { UserKind } from "../sdk/messages.js";
import { AvatarPicker, sendPicture, storedPicture } from "./avatar_picker.js";
import { useApp } from "./context.js";
import { lengthOf, TextField } from "./field.js";
import { explain } from "./problem.js";
import { Section } from "./settings_section.js";
import { html, useEffect, useSignal } from "./ui.js";

const NICK_MAX = 64;
const BIO_MAX = 256;

const formOf = ({ nick, bio, avatar }) => ({
  nick: nick ?? "",
  bio: bio ?? "",
  picture: storedPicture(avatar ?? 0),
});

export function ProfileSettings() {
  const { api, client, model, overlay, say, words } = useApp();
  const profile = model.profile.value;
  const stored = formOf(profile);
  const form = useSignal(stored);
  const touched = useSignal(false);
  const problem = useSignal("");
  const isBusy = useSignal(false);
  useEffect(() => {
    // What changed on another device shows, unless something is being changed here.
    if (!touched.peek()) form.value = formOf(profile);
  }, [profile]);
  const change = (fields) => {
    form.value = { ...form.peek(), ...fields };
    touched.value = true;
    problem.value = "";
  };
  const undo = () => {
    form.value = stored;
    touched.value = false;
    problem.value = "";
  };
  const save = async (event) => {
    event.preventDefault();
    const { nick, bio, picture } = form.peek();
    if (isBusy.peek() || lengthOf(nick.trim()) > NICK_MAX || lengthOf(bio.trim()) > BIO_MAX) return;
    isBusy.value = true;
    try {
      const avatar = await sendPicture(api, picture);
      await client.setProfile({ nick: nick.trim(), bio: bio.trim(), avatar });
      touched.value = false;
      form.value = { nick: nick.trim(), bio: bio.trim(), picture: storedPicture(avatar) };
      overlay.say(say("settings.saved"));
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      problem.value = explain(words, error);
    }
    isBusy.value = false;
  };
  const { nick, bio, picture } = form.value;
  return html`
    <${Section} title=${say("settings.profile")}>
      <form class="form" onSubmit=${save} aria-busy=${isBusy.value ? "true" : "false"} novalidate>
        <div class="settings-face">
          <${AvatarPicker}
            id=${profile.id ?? model.me}
            name=${nick || profile.name || ""}
            value=${picture}
            onChange=${(chosen) => change({ picture: chosen })}
          />
          <p class="quiet grow">
            ${profile.kind === UserKind.GUEST ? say("settings.guest") : html`<span class="own-name">@${profile.name}</span>`}
          </p>
        </div>
        <${TextField}
          label=${say("account.nick")}
          value=${nick}
          max=${NICK_MAX}
          autocomplete="nickname"
          onInput=${(text) => change({ nick: text })}
        />
        <${TextField}
          label=${say("settings.bio")}
          value=${bio}
          max=${BIO_MAX}
          rows=${2}
          onInput=${(text) => change({ bio: text })}
        />
        ${problem.value && html`<p class="problem" role="alert">${problem.value}</p>`}
        ${touched.value &&
        html`
          <div class="dialog-actions">
            <button type="button" class="button" onClick=${undo}>${say("action.cancel")}</button>
            <button class="button primary" disabled=${isBusy.value}>
              ${say(isBusy.value ? "state.saving" : "action.save")}
            </button>
          </div>
        `}
      </form>
    <//>
  `;
}
