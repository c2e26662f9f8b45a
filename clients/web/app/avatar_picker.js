// The field with which a picture is chosen; it is sent when the form is saved.

import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { squarePicture } from "./picture.js";
import { explain } from "./problem.js";
import { html, useEffect, useRef, useSignal } from "./ui.js";

/** A picture that is stored already; 0 for none. */
export const storedPicture = (avatar) => ({ avatar, blob: null, url: "" });

/** Send the picture if it is a new one; resolves with the avatar's id, 0 for none. */
export async function sendPicture(api, { avatar, blob }) {
  return blob === null ? avatar : (await api.put("/api/v1/avatars", blob)).id;
}

/** `value`: {avatar, blob, url}, of `storedPicture` at first; `id` and `name` as for `Avatar`. */
export function AvatarPicker({ id, name, value, onChange }) {
  const { say, words } = useApp();
  const problem = useSignal("");
  const file = useRef(null);
  useEffect(() => () => value.url && URL.revokeObjectURL(value.url), [value.url]);
  const choose = async () => {
    const [chosen] = file.current.files;
    if (chosen === undefined) return;
    try {
      const blob = await squarePicture(chosen);
      problem.value = "";
      onChange({ avatar: 0, blob, url: URL.createObjectURL(blob) });
    } catch (error) {
      problem.value = explain(words, error);
    }
    if (file.current !== null) file.current.value = "";
  };
  const hasOne = value.blob !== null || value.avatar !== 0;
  return html`
    <div class="avatar-picker">
      ${value.url
        ? html`<span class="avatar large" aria-hidden="true"><img src=${value.url} alt="" /></span>`
        : html`<${Avatar} id=${id} name=${name} avatar=${value.avatar} size="large" />`}
      <div class="avatar-picker-actions">
        <button type="button" class="button small" onClick=${() => file.current.click()}>
          <${Icon} name="upload" />${say("picture.choose")}
        </button>
        ${hasOne &&
        html`
          <button type="button" class="button small plain" onClick=${() => onChange(storedPicture(0))}>
            ${say("picture.remove")}
          </button>
        `}
        ${problem.value && html`<p class="problem" role="alert">${problem.value}</p>`}
      </div>
      <input
        ref=${file}
        type="file"
        accept="image/png,image/jpeg,image/webp,image/gif"
        aria-label=${say("picture.choose")}
        hidden
        onChange=${choose}
      />
    </div>
  `;
}
