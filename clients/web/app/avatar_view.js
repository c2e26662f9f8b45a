// A round picture of somebody, or the beginning of the name on a colour of its own.

import { html, useState } from "./ui.js";

const HUES = 12;

/** One or two characters that stand for a name; those of Chinese names are their last. */
export function initials(name) {
  const clean = name.trim();
  const characters = [...clean];
  if (characters.length === 0) return "?";
  if (/\p{Script=Han}/u.test(characters.at(-1))) return characters.slice(-2).join("");
  const words = clean.split(/\s+/);
  return (words.length > 1 ? [...words[0]][0] + [...words.at(-1)][0] : characters[0]).toUpperCase();
}

/** Where the picture with the avatar id is. */
export const avatarUrl = (avatar) => `/api/v1/avatars/${avatar}`;

/**
 * `id` chooses the colour, `name` the characters, `avatar` the picture (0 for none), `size` is
 * "small", "medium" or "large"; `online` shows a mark: true, false, or undefined for neither.
 * Decoration only: the name stands beside it.
 */
export function Avatar({ id, name, avatar = 0, size = "medium", online }) {
  const [broken, setBroken] = useState(0);
  const shows = avatar && avatar !== broken;
  return html`
    <span class=${`avatar ${size} hue-${id % HUES}`} aria-hidden="true">
      ${shows
        ? html`<img src=${avatarUrl(avatar)} alt="" loading="lazy" onError=${() => setBroken(avatar)} />`
        : initials(name)}
      ${online !== undefined && html`<span class=${online ? "presence online" : "presence"}></span>`}
    </span>
  `;
}
