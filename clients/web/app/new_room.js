// Dialogs that begin a conversation, or bring people into one.

import { ConvKind } from "../sdk/client.js";
import { useApp } from "./context.js";
import { tryTo } from "./conversation_actions.js";
import { Dialog } from "./overlay.js";
import { PeoplePicker } from "./people_picker.js";
import { PersonaPicker } from "./persona_picker.js";
import { html, useSignal } from "./ui.js";

const TITLE_MAX = 128;
/** As many as one request takes. */
const ADDED_MAX = 50;

/** Find a person and open the conversation with that person. */
export async function writeToPerson(app) {
  const { client, model, overlay, route, say } = app;
  const person = await overlay.open(
    (close) => html`
      <${Dialog} title=${say("room.new_person")} close=${close}>
        <${PeoplePicker} onPick=${close} isFirst />
      <//>
    `,
  );
  if (person === undefined) return;
  model.directory.meetPeople([person]);
  await tryTo(app, async () => {
    const { row } = await client.createConversation(ConvKind.DIRECT, { members: [person.id] });
    route.chat(row.id);
  });
}

/** Ask for title, people and personas, and open the new group. */
export async function makeGroup(app) {
  const made = await app.overlay.open(
    (close) => html`
      <${Dialog} title=${app.say("room.new_group")} close=${close}>
        <${GroupForm} close=${close} />
      <//>
    `,
  );
  if (made !== undefined) app.route.chat(made);
}

function GroupForm({ close }) {
  const app = useApp();
  const { client, say } = app;
  const title = useSignal("");
  const people = useSignal([]);
  const personas = useSignal([]);
  const isBusy = useSignal(false);
  const create = async (event) => {
    event.preventDefault();
    if (isBusy.peek()) return;
    isBusy.value = true;
    await tryTo(app, async () => {
      const members = people.peek().map(({ id }) => id);
      const set = personas.peek().length > 0 ? { personas: personas.peek() } : null;
      const made = await client.createConversation(ConvKind.GROUP, { title: title.peek(), members, set });
      close(made.row.id);
    });
    isBusy.value = false;
  };
  return html`
    <form class="form" onSubmit=${create}>
      <label class="field">
        <span class="label">${say("room.title")}</span>
        <input
          class="input"
          required
          autofocus
          maxlength=${TITLE_MAX}
          value=${title.value}
          onInput=${(event) => (title.value = event.target.value)}
        />
      </label>
      <${PeoplePicker} chosen=${people} />
      <${PersonaPicker} chosen=${personas} />
      <div class="dialog-actions">
        <button type="button" class="button" onClick=${() => close()}>${say("action.cancel")}</button>
        <button type="submit" class="button primary" disabled=${isBusy.value}>${say("room.create")}</button>
      </div>
    </form>
  `;
}

/** Find people and add them to a group. */
export async function addPeople(app, view) {
  const { client, overlay, say } = app;
  const without = view.present().map(({ user }) => user);
  const people = await overlay.open(
    (close) => html`
      <${Dialog} title=${say("room.add_people")} close=${close}>
        <${AddForm} without=${without} close=${close} />
      <//>
    `,
  );
  if (!people?.length) return;
  await tryTo(app, () => client.addMembers(view.conv, people.map(({ id }) => id)));
}

function AddForm({ without, close }) {
  const { say } = useApp();
  const chosen = useSignal([]);
  const add = (event) => {
    event.preventDefault();
    close(chosen.peek());
  };
  const count = chosen.value.length;
  return html`
    <form class="form" onSubmit=${add}>
      <${PeoplePicker} chosen=${chosen} without=${without} isFirst />
      <div class="dialog-actions">
        <button type="button" class="button" onClick=${() => close()}>${say("action.cancel")}</button>
        <button type="submit" class="button primary" disabled=${count === 0 || count > ADDED_MAX}>${say("action.add")}</button>
      </div>
    </form>
  `;
}
