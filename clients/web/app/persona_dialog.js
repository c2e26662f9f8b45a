// The form of a persona: to add one, also from a character card, and to change or remove one's own.

import { ClientError, Code, makeCid, Scope } from "../sdk/client.js";
import { AvatarPicker, sendPicture, storedPicture } from "./avatar_picker.js";
import { useApp } from "./context.js";
import { HAS_KEYS, lengthOf, Segments, TextField } from "./field.js";
import { Icon } from "./icons.js";
import { Dialog } from "./overlay.js";
import { removePersona } from "./personas.js";
import { explain } from "./problem.js";
import { html, useComputed, useMemo, useRef, useSignal } from "./ui.js";

const NAME_MAX = 64;
const GREETING_MAX = 2_000;
const PROMPT_MAX = 16_000;
const MODEL_MAX = 64;
const TAGS_MAX = 16;
const TAG_MAX = 32;
const TEMPERATURE_MAX = 2;
/** As large as the server takes a card, in bytes. */
const CARD_MAX = 16 * 1024 * 1024;

/** `persona`: its row, or {name} of one that is to be added. */
export function PersonaDialog({ persona, close }) {
  const app = useApp();
  const { model, overlay, say } = app;
  const base = useSignal(persona);
  const form = useSignal(formOf(persona));
  const problems = useSignal({});
  const isBusy = useSignal(false);
  const isGone = useSignal(false);
  // One number for all attempts: a repeated one adds nothing twice.
  const cid = useMemo(makeCid, []);
  const isNew = !persona.id;
  const newer = useComputed(() => newerThan(base.value, model.directory.personas.value.get(base.value.id)));

  const change = (fields) => {
    form.value = { ...form.peek(), ...fields };
    problems.value = {};
  };
  const leave = async () => {
    if (isBusy.peek()) return;
    const changes = changesIn(form.peek(), base.peek());
    const isSame = Object.keys(changes).length === 0 && form.peek().picture.blob === null;
    if (isSame || (await overlay.confirm(discarding(say)))) close();
  };
  const save = async (event) => {
    event.preventDefault();
    if (isBusy.peek()) return;
    const flaws = flawsIn(say, form.peek());
    problems.value = flaws;
    if (Object.keys(flaws).length > 0) {
      showField(event.target, Object.keys(flaws)[0]);
      return;
    }
    isBusy.value = true;
    try {
      close(await saved(app, form, isGone.peek() ? {} : base.peek(), cid));
    } catch (error) {
      refused(error);
    }
    isBusy.value = false;
  };
  const refused = (error) => {
    if (!(error instanceof ClientError)) throw error;
    if (error.code === Code.NOT_FOUND && base.peek().id) isGone.value = true;
    else if (error.reason === "model") problems.value = { model: modelProblem(say, error) };
    else problems.value = { form: explain(app.words, error) };
  };
  const takeNewer = () => {
    base.value = newer.peek();
    form.value = formOf(newer.peek());
  };
  const remove = async () => {
    if (await removePersona(app, base.peek())) close();
  };
  return html`
    <${Dialog} title=${say(isNew ? "persona.add" : "persona.edit")} close=${leave} wide>
      ${isNew && html`<${CardImport} close=${close} />`}
      <form class="form" onSubmit=${save} aria-busy=${isBusy.value ? "true" : "false"} novalidate>
        ${isGone.value && html`<p class="note" role="alert">${say("persona.gone")}</p>`}
        ${newer.value !== null &&
        !isBusy.value &&
        !isGone.value &&
        html`
          <div class="note note-action" role="alert">
            <span>${say("persona.newer")}</span>
            <button type="button" class="button small" onClick=${takeNewer}>${say("persona.take_newer")}</button>
          </div>
        `}
        <${Fields} id=${persona.id ?? 0} form=${form} problems=${problems} change=${change} />
        ${problems.value.form && html`<p class="problem" role="alert">${problems.value.form}</p>`}
        <div class="dialog-actions sticky-actions">
          ${!isNew &&
          html`
            <button type="button" class="button plain danger-text" onClick=${remove}>
              <${Icon} name="delete" />${say("action.delete")}
            </button>
          `}
          <span class="grow"></span>
          <button type="button" class="button" onClick=${leave}>${say("action.cancel")}</button>
          <button class="button primary" disabled=${isBusy.value}>
            ${say(isBusy.value ? "state.saving" : isGone.value ? "persona.save_new" : "action.save")}
          </button>
        </div>
      </form>
    <//>
  `;
}

/** Bring a field into view and give it the focus, once it says what is wrong. */
function showField(form, name) {
  requestAnimationFrame(() => {
    const field = form.querySelector(`[name=${name}]`);
    field?.closest(".field").scrollIntoView({ block: "center" });
    field?.focus({ preventScroll: true });
  });
}

function Fields({ id, form, problems, change }) {
  const { say } = useApp();
  const text = (name, more) => html`
    <${TextField}
      name=${name}
      value=${form.value[name]}
      onInput=${(value) => change({ [name]: value })}
      problem=${problems.value[name]}
      ...${more}
    />
  `;
  return html`
    <div class="persona-face">
      <${AvatarPicker}
        id=${id}
        name=${form.value.name}
        value=${form.value.picture}
        onChange=${(picture) => change({ picture })}
      />
      ${text("name", { label: say("persona.name"), max: NAME_MAX, autocomplete: "off", autofocus: HAS_KEYS })}
    </div>
    ${text("prompt", {
      label: say("persona.description"),
      hint: say("persona.description_hint"),
      max: PROMPT_MAX,
      rows: 7,
    })}
    ${text("greeting", {
      label: say("persona.greeting"),
      hint: say("persona.greeting_hint"),
      max: GREETING_MAX,
      rows: 2,
    })}
    ${text("tags", { label: say("persona.tags"), hint: say("persona.tags_hint"), autocomplete: "off" })}
    <${Segments}
      label=${say("persona.scope")}
      options=${[
        { id: Scope.PRIVATE, label: say("persona.scope_own") },
        { id: Scope.TENANT, label: say("persona.scope_team") },
      ]}
      value=${form.value.scope}
      onChange=${(scope) => change({ scope })}
    />
    <details class="persona-more" open=${Boolean(problems.value.model || problems.value.temperature)}>
      <summary>${say("persona.model_more")}</summary>
      <div class="persona-model">
        ${text("model", {
          label: say("persona.model"),
          hint: say("persona.model_hint"),
          max: MODEL_MAX,
          autocomplete: "off",
          spellcheck: false,
        })}
        ${text("temperature", {
          label: say("persona.temperature"),
          hint: say("persona.temperature_hint"),
          inputmode: "decimal",
          autocomplete: "off",
        })}
      </div>
    </details>
  `;
}

/** A persona out of a file that another program wrote. */
function CardImport({ close }) {
  const { api, model, overlay, words, say } = useApp();
  const file = useRef(null);
  const isBusy = useSignal(false);
  const problem = useSignal("");
  const chosen = async () => {
    const [card] = file.current.files;
    file.current.value = "";
    if (card === undefined) return;
    if (card.size > CARD_MAX) {
      problem.value = say("problem.too_large");
      return;
    }
    isBusy.value = true;
    try {
      const made = await api.post("/api/v1/personas/import", card);
      model.directory.meetPersonas([await api.get(`/api/v1/personas/${made.id}`)]);
      overlay.say(say("persona.imported", { name: made.name }));
      close();
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      problem.value = explain(words, error);
    }
    isBusy.value = false;
  };
  return html`
    <div class="card-import">
      <span class="quiet grow">${say("persona.import_hint")}</span>
      <button type="button" class="button small" disabled=${isBusy.value} onClick=${() => file.current.click()}>
        <${Icon} name="upload" />${say("persona.import")}
      </button>
      <input
        ref=${file}
        type="file"
        accept=".png,.json,.charx,image/png,application/json"
        aria-label=${say("persona.import")}
        hidden
        onChange=${chosen}
      />
      ${problem.value && html`<p class="problem" role="alert">${problem.value}</p>`}
    </div>
  `;
}

// what is in the form

function formOf({ name, prompt, greeting, tags, opt, scope, avatar }) {
  return {
    name: name ?? "",
    prompt: prompt ?? "",
    greeting: greeting ?? "",
    tags: (tags ?? []).join(", "),
    model: opt?.model ?? "",
    temperature: opt?.temperature === undefined || opt?.temperature === null ? "" : `${opt.temperature}`,
    scope: scope ?? Scope.PRIVATE,
    picture: storedPicture(avatar ?? 0),
  };
}

/** The tags of a line, whichever comma separates them. */
export function tagsOf(line) {
  const tags = line.split(/[,，、;；\n]/).map((tag) => tag.trim().replace(/\s+/g, " "));
  return [...new Set(tags.filter(Boolean))];
}

function optOf({ model, temperature }, before) {
  const opt = { ...before };
  if (model.trim() === "") delete opt.model;
  else opt.model = model.trim();
  if (temperature.trim() === "") delete opt.temperature;
  else opt.temperature = numberOf(temperature);
  return opt;
}

const numberOf = (text) => Number(text.trim().replace(",", "."));

/** The fields that are another than in `base`, as `savePersona` takes them; without the picture. */
function changesIn(form, base) {
  const now = {
    name: form.name.trim(),
    prompt: form.prompt,
    greeting: form.greeting.trim(),
    tags: tagsOf(form.tags),
    opt: optOf(form, base.opt),
    scope: form.scope,
  };
  const was = { name: "", prompt: "", greeting: "", ...given(base) };
  was.tags ??= [];
  was.opt = given(was.opt ?? {});
  was.scope ??= Scope.PRIVATE;
  now.opt = given(now.opt);
  return Object.fromEntries(
    Object.entries(now).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(was[name])),
  );
}

/** Without what is not set. */
function given(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null && value !== undefined));
}

function flawsIn(say, form) {
  const found = {};
  const tooLong = (text, max) => lengthOf(text) > max && say("field.too_long", { count: lengthOf(text) - max });
  const note = (name, problem) => problem && (found[name] = problem);
  note("name", form.name.trim() === "" ? say("persona.name_missing") : tooLong(form.name.trim(), NAME_MAX));
  note("prompt", tooLong(form.prompt, PROMPT_MAX));
  note("greeting", tooLong(form.greeting.trim(), GREETING_MAX));
  const tags = tagsOf(form.tags);
  const isTooMuch = tags.length > TAGS_MAX || tags.some((tag) => lengthOf(tag) > TAG_MAX);
  note("tags", isTooMuch && say("persona.tags_hint"));
  note("model", tooLong(form.model.trim(), MODEL_MAX));
  const degree = numberOf(form.temperature);
  note("temperature", !(degree >= 0 && degree <= TEMPERATURE_MAX) && say("persona.temperature_hint"));
  return found;
}

/** Store the form, as a new persona when `base` has no id; resolves with its row. */
async function saved({ api, client, model }, form, base, cid) {
  const { picture } = form.peek();
  const avatar = await sendPicture(api, picture);
  // Sent once, even if what follows has to be tried again.
  if (picture.blob !== null) form.value = { ...form.peek(), picture: { ...picture, avatar, blob: null } };
  const changes = changesIn(form.peek(), base);
  if (avatar !== (base.avatar ?? 0)) changes.avatar = avatar;
  const fields = base.id ? { id: base.id, ...changes } : { scope: Scope.PRIVATE, ...changes };
  const { p } = await client.savePersona(fields, cid);
  model.directory.meetPersonas([p]);
  return p;
}

/** The row that came since the form was opened; null for none. */
function newerThan(base, row) {
  if (!base.id || row === undefined || row.deleted || (row.rev ?? 0) <= (base.rev ?? 0)) return null;
  return row;
}

/** The server lists the models it knows. */
function modelProblem(say, { detail }) {
  const known = /^Known models: (.+)$/.exec(detail)?.[1];
  return known ? say("persona.model_known", { models: known }) : say("persona.model_unknown");
}

function discarding(say) {
  return {
    title: say("form.discard_title"),
    text: say("form.discard_text"),
    yes: say("form.discard"),
    no: say("form.go_on"),
    danger: true,
  };
}
