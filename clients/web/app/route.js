// Where the page is, written after the # of its address: reload and the back button work.

import { signal } from "./ui.js";

/**
 * Addresses:
 *
 *   #/                    the list of conversations
 *   #/personas            the personas
 *   #/c/12                conversation 12
 *   #/c/12/at/345         the same, at message 345
 *   #/c/12/info           the same, with its members and settings
 *   #/settings            one's own settings
 */
export function readHash(hash) {
  const [first = "", second = "", third = "", fourth = ""] = hash.replace(/^#?\/?/, "").split("/");
  const conv = asId(second);
  if (first === "c" && conv !== 0) {
    return { view: "chat", conv, seq: third === "at" ? asId(fourth) : 0, info: third === "info" };
  }
  const view = ["personas", "settings"].includes(first) ? first : "home";
  return { view, conv: 0, seq: 0, info: false };
}

function asId(text) {
  return /^[1-9]\d{0,15}$/.test(text) ? Number(text) : 0;
}

/** The route as a signal `at` of {view, conv, seq, info}; changes go through the address. */
export class Route {
  #window;
  #follow = () => {
    this.at.value = readHash(this.#window.location.hash);
  };

  constructor(page = globalThis) {
    this.#window = page;
    this.at = signal(readHash(page.location.hash));
    page.addEventListener("hashchange", this.#follow);
  }

  /** Go somewhere, such as "/c/12"; `replace` leaves no step to go back to. */
  go(path, { replace = false } = {}) {
    const { location, history } = this.#window;
    if (location.hash === `#${path}`) return;
    if (replace) history.replaceState(history.state, "", `#${path}`);
    else history.pushState({ from: location.hash || "#/" }, "", `#${path}`);
    this.#follow();
  }

  /** Leave for `path`, one level up: as a step back when one came from there. */
  back(path) {
    const { history } = this.#window;
    if (history.state?.from === `#${path}`) history.back();
    else this.go(path, { replace: true });
  }

  chat(conv, { seq = 0, info = false, replace = false } = {}) {
    const rest = seq ? `/at/${seq}` : info ? "/info" : "";
    this.go(`/c/${conv}${rest}`, { replace });
  }
}
