// A field that shows what is stored, and stores what was changed once one says so.

import { useApp } from "./context.js";
import { tryTo } from "./conversation_actions.js";
import { html, useEffect, useId, useSignal } from "./ui.js";

/**
 * `value`: what is stored; `save(text)`: store it. What others store meanwhile shows at once,
 * unless one is changing it. `rows`: of a longer text; `more`: further attributes of the field.
 * `canEdit` false shows the text alone.
 */
export function SavedField({ label, hint = "", value, save, rows = 0, canEdit = true, more = {} }) {
  const app = useApp();
  const { say } = app;
  const typed = useSignal(value);
  const stored = useSignal(value);
  const isBusy = useSignal(false);
  const id = useId();
  useEffect(() => {
    if (typed.peek() === stored.peek()) typed.value = value;
    stored.value = value;
  }, [value]);
  if (!canEdit) return value && html`<${StoredText} label=${label} value=${value} />`;
  const isChanged = typed.value !== stored.value;
  const submit = async (event) => {
    event.preventDefault();
    if (isBusy.peek()) return;
    const text = typed.peek().trim();
    isBusy.value = true;
    if (await tryTo(app, () => save(text))) typed.value = stored.value = text;
    isBusy.value = false;
  };
  const props = {
    class: "input",
    id,
    "aria-describedby": hint ? `${id}-hint` : undefined,
    ...more,
    value: typed.value,
    onInput: (event) => (typed.value = event.target.value),
  };
  return html`
    <form class="form saved" onSubmit=${submit}>
      <div class="field">
        <label class="label" for=${id}>${label}</label>
        ${rows > 0 ? html`<textarea ...${props} rows=${rows}></textarea>` : html`<input ...${props} />`}
        ${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}
      </div>
      ${isChanged &&
      html`
        <div class="dialog-actions">
          <button type="button" class="button small" onClick=${() => (typed.value = stored.peek())}>${say("action.cancel")}</button>
          <button type="submit" class="button small primary" disabled=${isBusy.value}>${say("action.save")}</button>
        </div>
      `}
    </form>
  `;
}

function StoredText({ label, value }) {
  return html`
    <div class="field">
      <span class="label">${label}</span>
      <p class="panel-text">${value}</p>
    </div>
  `;
}
