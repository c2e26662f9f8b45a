// Says plainly when there is no connection, and when what was missed is being fetched.

import { Link } from "../sdk/client.js";
import { useApp } from "./context.js";
import { html, useEffect, useSignal } from "./ui.js";

/** A connection that is back within this time is no news, in ms. */
const QUIET_MS = 700;

/** One line above everything; nothing while all is well. */
export function LinkBanner() {
  const { model, client, say } = useApp();
  const { state } = model.link.value;
  const isShown = useSignal(false);
  const isWell = state === Link.ONLINE;
  useEffect(() => {
    if (isWell) {
      isShown.value = false;
      return undefined;
    }
    const timer = setTimeout(() => (isShown.value = true), QUIET_MS);
    return () => clearTimeout(timer);
  }, [isWell]);
  const waiting = model.unsent.value;
  if (!isShown.value) return html`<div class="banner-place" role="status"></div>`;
  return html`
    <div class="banner-place" role="status">
      <div class=${`banner ${state === Link.OFFLINE ? "offline" : ""}`}>
        <span>
          ${say(WORDS[state] ?? "state.connecting")}
          ${waiting > 0 && html` ${say("state.unsent", { count: waiting })}`}
        </span>
        ${state === Link.OFFLINE &&
        html`
          <button type="button" class="button small" onClick=${() => client.retryNow()}>
            ${say("action.try_again")}
          </button>
        `}
      </div>
    </div>
  `;
}

const WORDS = {
  [Link.CONNECTING]: "state.connecting",
  [Link.CATCHING_UP]: "state.catching_up",
  [Link.OFFLINE]: "state.offline",
};
