// Fields of forms: the label above, beside it how much fits, below it what is wrong or what helps.

import { Icon } from "./icons.js";
import { useApp } from "./context.js";
import { html, useId, useSignal } from "./ui.js";

/** Where a field may have the focus unasked: on a phone it would bring up the keyboard. */
export const HAS_KEYS = matchMedia("(pointer: fine)").matches;

/** How near to its bound a field begins to count, as a part of it. */
const COUNT_FROM = 0.8;

/** Characters as the server counts them: an emoji of one code point is one. */
export const lengthOf = (text) => [...text].length;

/** `max` is a bound in characters: the field counts when it is near, and says when it is passed. */
function problemOf(say, { value, max, problem }) {
  if (problem) return problem;
  const over = max ? lengthOf(value) - max : 0;
  return over > 0 ? say("field.too_long", { count: over }) : "";
}

/** The frame of a field; `children` is what is typed or chosen in. */
function Frame({ id, label, hint, problem, count, children }) {
  return html`
    <div class="field">
      <div class="field-head">
        <label class="label" for=${id}>${label}</label>
        ${count && html`<span class="hint" aria-hidden="true">${count}</span>`}
      </div>
      ${children}
      ${problem
        ? html`<p class="problem" id=${`${id}-says`} role="alert">${problem}</p>`
        : hint && html`<p class="hint" id=${`${id}-says`}>${hint}</p>`}
    </div>
  `;
}

/**
 * One line of text, or several with `rows`.
 *
 * `value` and `onInput(text)` as usual; `problem` is what is wrong; everything else goes to the
 * element, such as autocomplete or inputmode.
 */
export function TextField({ label, value, onInput, hint, problem, max, rows, inputRef, ...rest }) {
  const { say } = useApp();
  const id = useId();
  const said = problemOf(say, { value, max, problem });
  const isNear = max && lengthOf(value) >= max * COUNT_FROM;
  const given = {
    id,
    ref: inputRef,
    class: "input",
    value,
    onInput: (event) => onInput(event.target.value),
    "aria-invalid": said ? "true" : "false",
    "aria-describedby": said || hint ? `${id}-says` : undefined,
    ...rest,
  };
  const count = isNear ? say("field.count", { count: lengthOf(value), max }) : "";
  return html`
    <${Frame} id=${id} label=${label} hint=${hint} problem=${said} count=${count}>
      ${rows ? html`<textarea rows=${rows} ...${given}></textarea>` : html`<input ...${given} />`}
    <//>
  `;
}

/** A password that can be looked at. `autocomplete` tells password managers which one it is. */
export function PasswordField({ label, value, onInput, hint, problem, inputRef, ...rest }) {
  const { say } = useApp();
  const id = useId();
  const isShown = useSignal(false);
  return html`
    <${Frame} id=${id} label=${label} hint=${hint} problem=${problem}>
      <span class="input-with-button">
        <input
          id=${id}
          ref=${inputRef}
          class="input"
          type=${isShown.value ? "text" : "password"}
          value=${value}
          maxlength="256"
          spellcheck=${false}
          autocapitalize="off"
          onInput=${(event) => onInput(event.target.value)}
          aria-invalid=${problem ? "true" : "false"}
          aria-describedby=${problem || hint ? `${id}-says` : undefined}
          ...${rest}
        />
        <button
          type="button"
          class="icon-button"
          aria-label=${say(isShown.value ? "account.hide_password" : "account.show_password")}
          aria-pressed=${isShown.value ? "true" : "false"}
          onClick=${() => (isShown.value = !isShown.value)}
        >
          <${Icon} name=${isShown.value ? "eye_off" : "eye"} />
        </button>
      </span>
    <//>
  `;
}

/** One of a few: [{id, label}]. */
export function Segments({ label, options, value, onChange, isLabelHidden = false }) {
  const name = useId();
  return html`
    <fieldset class="segments-field">
      <legend class=${isLabelHidden ? "only-read" : "label"}>${label}</legend>
      <div class="segments">
        ${options.map(
          (option) => html`
            <label class="segment" key=${option.id} lang=${option.lang}>
              <input
                type="radio"
                name=${name}
                checked=${option.id === value}
                onChange=${() => onChange(option.id)}
              />
              <span>${option.label}</span>
            </label>
          `,
        )}
      </div>
    </fieldset>
  `;
}
