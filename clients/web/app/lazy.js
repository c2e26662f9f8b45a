// Views that are loaded when they are first shown.

import { useApp } from "./context.js";
import { html, signal } from "./ui.js";

/**
 * A component that draws next to nothing until `load` has brought the real one; its `ahead()` begins
 * to load before it is drawn.
 */
export function lazy(load) {
  const state = signal({ name: "new", view: null });
  const begin = () => {
    state.value = { name: "loading", view: null };
    load().then(
      (view) => (state.value = { name: "here", view }),
      () => (state.value = { name: "failed", view: null }),
    );
  };
  const ahead = () => {
    if (state.peek().name === "new") begin();
  };
  const Later = (props) => {
    const { say } = useApp();
    const { name, view } = state.value;
    if (name === "here") return html`<${view} ...${props} />`;
    if (name === "new") queueMicrotask(ahead);
    if (name !== "failed") return html`<p class="loading late quiet" role="status">${say("state.loading")}</p>`;
    // In some browsers an import that failed stays so until the page is loaded anew.
    return html`
      <div class="loading">
        <p role="alert">${say("problem.unreachable")}</p>
        <button type="button" class="button" onClick=${() => location.reload()}>${say("action.try_again")}</button>
      </div>
    `;
  };
  return Object.assign(Later, { ahead });
}
