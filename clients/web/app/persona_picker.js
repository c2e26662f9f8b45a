// Choosing the personas of a group.

import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { html, useEffect, useSignal } from "./ui.js";

/** As many as the server takes. */
export const PERSONAS_MAX = 8;
/** A field to search in is of use from here on. */
const MANY = 8;

/** `chosen`: signal of the ids that are in; boxes to tick for all personas one may use. */
export function PersonaPicker({ chosen }) {
  const { model, overlay, say } = useApp();
  const wanted = useSignal("");
  const isRead = useSignal(false);
  useEffect(() => {
    const done = model.directory.loadPersonas().catch((error) => overlay.complain(error));
    done.then(() => (isRead.value = true));
  }, []);
  const usable = usableOf(model, chosen.value);
  const shown = usable.filter(({ name }) => (name ?? "").toLowerCase().includes(wanted.value.trim().toLowerCase()));
  const isFull = chosen.value.length >= PERSONAS_MAX;
  const toggle = (id) => {
    const others = chosen.peek().filter((other) => other !== id);
    chosen.value = others.length < chosen.peek().length ? others : [...others, id];
  };
  return html`
    <fieldset class="picker">
      <legend class="label">${say("room.personas")}</legend>
      ${usable.length > MANY &&
      html`
        <input
          type="search"
          class="input"
          aria-label=${say("room.find_persona")}
          placeholder=${say("room.find_persona")}
          value=${wanted.value}
          onInput=${(event) => (wanted.value = event.target.value)}
          onKeyDown=${(event) => event.key === "Enter" && event.preventDefault()}
        />
      `}
      <ul class="picker-list" role="list">
        ${shown.map(({ id, name, avatar }) => {
          const isIn = chosen.value.includes(id);
          return html`
            <li key=${id}>
              <label class="picker-item">
                <${Avatar} id=${id} name=${name ?? ""} avatar=${avatar ?? 0} size="small" />
                <span class="ellipsis grow">${name}</span>
                <input type="checkbox" checked=${isIn} disabled=${isFull && !isIn} onChange=${() => toggle(id)} />
              </label>
            </li>
          `;
        })}
      </ul>
      ${!isRead.value && html`<p class="quiet" role="status">${say("room.finding")}</p>`}
      ${isFull && html`<p class="quiet" role="status">${say("room.personas_full", { count: PERSONAS_MAX })}</p>`}
    </fieldset>
  `;
}

/** Those that are in first, then by name; one that was removed meanwhile only while it is in. */
function usableOf(model, chosen) {
  const all = [...model.directory.personas.value.values()].filter(({ id, deleted }) => !deleted || chosen.includes(id));
  return all.sort((a, b) => (a.name ?? "").localeCompare(b.name ?? ""));
}
