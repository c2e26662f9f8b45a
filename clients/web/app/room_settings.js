// What belongs to everybody in a conversation: title, notice, personas, how they talk.

import { TalkMode } from "../sdk/client.js";
import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { tryTo } from "./conversation_actions.js";
import { ADMINS_INVITE } from "./member_list.js";
import { Dialog } from "./overlay.js";
import { PersonaPicker } from "./persona_picker.js";
import { SavedField } from "./saved_field.js";
import { html, useId, useSignal } from "./ui.js";

const TITLE_MAX = 128;
const NOTICE_MAX = 2000;
const PROMPT_MAX = 16_000;
const MODEL_MAX = 64;
const HISTORY_MAX = 1000;
/** `Conv.flags`: newcomers do not see what was said before. */
const HIDE_HISTORY = 1;
const TALKS = [
  [TalkMode.CALLED, "room.talk_called"],
  [TalkMode.LIVELY, "room.talk_lively"],
  [TalkMode.ALWAYS, "room.talk_always"],
];

/** Title and notice of a group; a talk with a persona has a title only. */
export function RoomTexts({ view, isTalk = false }) {
  const { client, model, say } = useApp();
  const canEdit = model.isManager(view);
  const set = (name) => (text) => client.changeConversation(view.conv, { [name]: text });
  return html`
    <section class="panel-part">
      ${canEdit &&
      html`<${SavedField} label=${say("room.title")} value=${view.row.title ?? ""} save=${set("title")} more=${{ maxlength: TITLE_MAX, required: true }} />`}
      ${!isTalk &&
      html`
        <${SavedField}
          label=${say("room.notice")}
          hint=${say("room.notice_hint")}
          value=${view.row.notice ?? ""}
          save=${set("notice")}
          more=${{ maxlength: NOTICE_MAX }}
          rows=${3}
          canEdit=${canEdit}
        />
      `}
    </section>
  `;
}

/** Which personas are in a group, and when they speak. */
export function RoomPersonas({ view }) {
  const app = useApp();
  const { client, model, say } = app;
  const canEdit = model.isManager(view);
  const personas = view.row.personas ?? [];
  const talk = view.row.talk ?? TalkMode.CALLED;
  const name = useId();
  const choose = (mode) => tryTo(app, () => client.changeConversation(view.conv, { talk: mode }));
  return html`
    <section class="panel-part">
      <div class="panel-line">
        <h3>${say("room.personas")}</h3>
        ${canEdit && html`<button type="button" class="button small" onClick=${() => changePersonas(app, view)}>${say("action.edit")}</button>`}
      </div>
      ${personas.length === 0 && html`<p class="quiet">${say("room.no_personas")}</p>`}
      <ul class="member-list" role="list">
        ${personas.map((id) => {
          const shown = model.nameOf(id, view);
          return html`
            <li class="member" key=${id}>
              <${Avatar} id=${id} name=${shown} avatar=${model.avatarOf(id, view)} size="small" />
              <span class="grow ellipsis">${shown}</span>
            </li>
          `;
        })}
      </ul>
      ${personas.length > 0 &&
      html`
        <fieldset class="talk" disabled=${!canEdit}>
          <legend class="label">${say("room.talk")}</legend>
          ${TALKS.map(
            ([mode, key]) => html`
              <label class="talk-choice" key=${mode}>
                <input type="radio" name=${name} checked=${talk === mode} onChange=${() => choose(mode)} />
                <span>
                  <span>${say(key)}</span>
                  <span class="hint quiet">${say(`${key}_hint`)}</span>
                </span>
              </label>
            `,
          )}
        </fieldset>
      `}
    </section>
  `;
}

async function changePersonas(app, view) {
  const { client, overlay, say } = app;
  const personas = await overlay.open(
    (close) => html`
      <${Dialog} title=${say("room.personas")} close=${close}>
        <${PersonasForm} before=${view.row.personas ?? []} close=${close} />
      <//>
    `,
  );
  if (personas !== undefined) await tryTo(app, () => client.changeConversation(view.conv, { personas }));
}

function PersonasForm({ before, close }) {
  const { say } = useApp();
  const chosen = useSignal(before);
  const save = (event) => {
    event.preventDefault();
    close(chosen.peek());
  };
  return html`
    <form class="form" onSubmit=${save}>
      <${PersonaPicker} chosen=${chosen} />
      <div class="dialog-actions">
        <button type="button" class="button" onClick=${() => close()}>${say("action.cancel")}</button>
        <button type="submit" class="button primary">${say("action.save")}</button>
      </div>
    </form>
  `;
}

/** Who may bring others in, and what they see. */
export function RoomRules({ view }) {
  const app = useApp();
  const { client, model, say } = app;
  if (!model.isManager(view)) return null;
  const flags = view.row.flags ?? 0;
  const box = (bit, key) => html`
    <label class="switch-line">
      <input
        type="checkbox"
        checked=${(flags & bit) !== 0}
        onChange=${() => tryTo(app, () => client.changeConversation(view.conv, { flags: flags ^ bit }))}
      />
      <span>${say(key)}</span>
    </label>
  `;
  return html`
    <section class="panel-part">
      <h3>${say("room.rules")}</h3>
      ${box(ADMINS_INVITE, "room.admins_invite")}${box(HIDE_HISTORY, "room.hide_history")}
    </section>
  `;
}

/** How the persona is told and asked in this conversation alone. */
export function TalkSettings({ view }) {
  const { client, model, say } = useApp();
  if (!model.isManager(view)) return null;
  const { conv, row } = view;
  const opt = row.opt ?? {};
  const set = (name, read) => (text) => {
    const { [name]: _, ...others } = opt;
    const given = text === "" ? {} : { [name]: read(text) };
    return client.changeConversation(conv, { opt: { ...others, ...given } });
  };
  const field = (name, read, more) => html`
    <${SavedField}
      label=${say(`room.${name}`)}
      hint=${say(`room.${name}_hint`)}
      value=${opt[name] === undefined || opt[name] === null ? "" : String(opt[name])}
      save=${set(name, read)}
      more=${more}
    />
  `;
  return html`
    <section class="panel-part">
      <h3>${say("room.answers")}</h3>
      <${SavedField}
        label=${say("room.prompt")}
        hint=${say("room.prompt_hint")}
        value=${row.prompt ?? ""}
        save=${(prompt) => client.changeConversation(conv, { prompt })}
        more=${{ maxlength: PROMPT_MAX }}
        rows=${4}
      />
      ${field("model", (text) => text, { maxlength: MODEL_MAX })}
      ${field("temperature", numberUpTo(2), { type: "number", step: "0.1", min: 0, max: 2 })}
      ${field("history", numberUpTo(HISTORY_MAX), { type: "number", step: "1", min: 0, max: HISTORY_MAX })}
    </section>
  `;
}

const numberUpTo = (most) => (text) => Math.min(most, Math.max(0, Number(text) || 0));
