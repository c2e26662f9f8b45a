// Who writes just now: what was told of it runs out by itself.

import { TypingState } from "../sdk/client.js";
import { signal } from "./ui.js";

/** How long somebody is said to write after the last sign of it, in ms. */
const TYPING_MS = 6_000;

/** Who writes, by conversation, as signals; until `close`. */
export class Typing {
  /** conv -> signal of Map user -> timer. */
  #convs = new Map();

  close() {
    for (const here of this.#convs.values()) {
      for (const timer of here.peek().values()) clearTimeout(timer);
    }
  }

  /** Who writes in a conversation; follows it. */
  in(conv) {
    return [...this.#of(conv).value.keys()];
  }

  /** A sign of somebody: `state` of `TypingState`. */
  seen(conv, user, state) {
    if (state === TypingState.STOP) {
      this.stopped(conv, user);
      return;
    }
    const here = this.#of(conv);
    clearTimeout(here.peek().get(user));
    const timer = setTimeout(() => this.stopped(conv, user), TYPING_MS);
    here.value = new Map(here.peek()).set(user, timer);
  }

  /** Somebody has stopped to write, or the message is here. */
  stopped(conv, user) {
    const here = this.#convs.get(conv);
    if (here === undefined || !here.peek().has(user)) return;
    const left = new Map(here.peek());
    clearTimeout(left.get(user));
    left.delete(user);
    here.value = left;
  }

  #of(conv) {
    if (!this.#convs.has(conv)) this.#convs.set(conv, signal(new Map()));
    return this.#convs.get(conv);
  }
}
