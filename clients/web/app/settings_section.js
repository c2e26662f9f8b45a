// What the parts of the settings have in common.

import { ClientError } from "../sdk/client.js";
import { useApp } from "./context.js";
import { html, useEffect, useId, useSignal } from "./ui.js";

/** One part, with its title; `hint` says what it is for. */
export function Section({ title, hint, children }) {
  const id = useId();
  return html`
    <section class="settings-part" aria-labelledby=${id}>
      <h2 id=${id}>${title}</h2>
      ${hint && html`<p class="hint quiet">${hint}</p>`}
      ${children}
    </section>
  `;
}

/**
 * What `read` resolves with, as a signal of {value, error, again}: value is undefined until it is
 * there, `again()` reads anew.
 */
export function useReading(read, needs) {
  const reading = useSignal({ value: undefined, error: null });
  const again = async () => {
    try {
      reading.value = { value: await read(), error: null };
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      reading.value = { value: reading.peek().value, error };
    }
  };
  useEffect(() => {
    again();
  }, needs);
  return { reading, again };
}

/** Stands where something is being read, or could not be. */
export function Waiting({ error, again }) {
  const { say } = useApp();
  if (error === null) return html`<p class="quiet" role="status">${say("state.loading")}</p>`;
  return html`
    <div class="settings-row">
      <p class="problem" role="alert">${say("problem.unanswered")}</p>
      <button type="button" class="button small" onClick=${again}>${say("action.try_again")}</button>
    </div>
  `;
}
