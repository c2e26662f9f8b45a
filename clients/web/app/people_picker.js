// Finding people by name, and choosing some of them.

import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { html, useEffect, useSignal } from "./ui.js";

/** The server is asked once the typing rests, in ms. */
const REST_MS = 250;
const FOUND_MAX = 20;

/**
 * A field to find people in, and those that were found.
 *
 * chosen   signal of the people chosen so far, shown as chips; null where one click is the choice
 * onPick   called with a person in that case
 * without  ids that are not offered; oneself never is
 * isFirst  the field has the focus when the dialog around it opens
 */
export function PeoplePicker({ chosen = null, onPick = null, without = [], isFirst = false }) {
  const { say } = useApp();
  const query = useSignal("");
  const { people, isBusy } = useFound(query.value, without);
  const toggle = (person) => {
    if (chosen === null) return onPick(person);
    const others = chosen.peek().filter(({ id }) => id !== person.id);
    chosen.value = others.length < chosen.peek().length ? others : [...others, person];
    return undefined;
  };
  const isChosen = ({ id }) => chosen?.value.some((person) => person.id === id) ?? false;
  return html`
    <div class="picker">
      <label class="field">
        <span class="label">${say("room.find_people")}</span>
        <input
          type="search"
          class="input"
          autocomplete="off"
          autofocus=${isFirst}
          placeholder=${say("room.find_people_hint")}
          value=${query.value}
          onInput=${(event) => (query.value = event.target.value)}
          onKeyDown=${(event) => event.key === "Enter" && event.preventDefault()}
        />
      </label>
      ${chosen !== null && chosen.value.length > 0 && html`<${Chips} chosen=${chosen} />`}
      <ul class="picker-list" role="list" aria-busy=${isBusy ? "true" : "false"}>
        ${people.map(
          (person) => html`
            <li key=${person.id}>
              <${PersonButton}
                person=${person}
                isChosen=${isChosen(person)}
                isToggle=${chosen !== null}
                onClick=${() => toggle(person)}
              />
            </li>
          `,
        )}
      </ul>
      <p class="quiet picker-said" role="status">${said(query.value, people, isBusy, say)}</p>
    </div>
  `;
}

function said(query, people, isBusy, say) {
  if (query.trim() === "") return "";
  if (isBusy) return say("room.finding");
  return people.length === 0 ? say("room.nobody") : "";
}

/** People whose name begins so; what was asked last wins. */
function useFound(query, without) {
  const { client, model, overlay } = useApp();
  const found = useSignal({ query: "", people: [] });
  const wanted = query.trim();
  useEffect(() => {
    if (wanted === "") return undefined;
    let isLate = false;
    const ask = async () => {
      try {
        const people = await client.findUsers(wanted, FOUND_MAX);
        if (isLate) return;
        model.directory.meetPeople(people);
        found.value = { query: wanted, people };
      } catch (error) {
        if (!isLate) overlay.complain(error);
      }
    };
    const timer = setTimeout(ask, REST_MS);
    return () => {
      isLate = true;
      clearTimeout(timer);
    };
  }, [wanted]);
  const isKnown = found.value.query === wanted;
  const people = wanted === "" ? [] : found.value.people;
  const offered = people.filter(({ id }) => id !== model.me && !without.includes(id));
  return { people: offered, isBusy: wanted !== "" && !isKnown };
}

function PersonButton({ person, isChosen, isToggle, onClick }) {
  const { id, name, nick, avatar } = person;
  return html`
    <button
      type="button"
      class="picker-item"
      aria-pressed=${isToggle ? String(isChosen) : undefined}
      onClick=${onClick}
    >
      <${Avatar} id=${id} name=${nick || name || ""} avatar=${avatar ?? 0} size="small" />
      <span class="ellipsis grow">${nick || name}${nick && name && html` <span class="quiet">${name}</span>`}</span>
      ${isChosen && html`<${Icon} name="check" />`}
    </button>
  `;
}

function Chips({ chosen }) {
  const { say } = useApp();
  const drop = (id) => (chosen.value = chosen.peek().filter((person) => person.id !== id));
  return html`
    <ul class="chips" role="list" aria-label=${say("room.chosen")}>
      ${chosen.value.map(({ id, name, nick }) => {
        const shown = nick || name || "";
        return html`
          <li key=${id} class="chip">
            <span class="ellipsis">${shown}</span>
            <button type="button" class="icon-button small" aria-label=${say("room.unchoose", { name: shown })} onClick=${() => drop(id)}>
              <${Icon} name="close" />
            </button>
          </li>
        `;
      })}
    </ul>
  `;
}
