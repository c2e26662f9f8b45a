// What the answers on their way answer, kept in this tab: it survives a reload.
//
// A server tells it when an answer begins. Its list of those that run, for who comes later, does not
// (docs/protocol.md §8).

import { storageOf } from "./i18n.js";

/** Answers that are remembered; far above what runs at once. The one noted first goes first. */
const KEPT_MAX = 64;

const UNKNOWN = Object.freeze({ persona: 0, ask: 0, isContinued: false });

/** Notes about running answers by their sid, in the name of `user`. */
export class Asks {
  #notes;
  #key;
  #storage;

  constructor(user, storage = storageOf("sessionStorage")) {
    this.#key = `parlance.${user}.asks`;
    this.#storage = storage;
    this.#notes = this.#read();
  }

  /**
   * {persona, ask, isContinued}: who answers, the seq of what is answered (0 when that is not
   * known), and whether the answer goes on where the one at `ask` stopped.
   */
  of(sid) {
    return this.#notes.get(sid) ?? UNKNOWN;
  }

  /** Take an event `streamStarted`. */
  started({ sid, persona, ask }) {
    this.#note(sid, { persona, ask: ask || this.of(sid).ask });
  }

  /** The answer goes on where another stopped. */
  continued(sid) {
    this.#note(sid, { isContinued: true });
  }

  /** The answer is over. */
  ended(sid) {
    if (this.#notes.delete(sid)) this.#write();
  }

  #note(sid, fields) {
    this.#notes.set(sid, { ...this.of(sid), ...fields });
    if (this.#notes.size > KEPT_MAX) this.#notes.delete(this.#notes.keys().next().value);
    this.#write();
  }

  #read() {
    try {
      return new Map(JSON.parse(this.#storage?.getItem(this.#key) ?? "[]"));
    } catch {
      return new Map();
    }
  }

  #write() {
    try {
      if (this.#notes.size === 0) this.#storage?.removeItem(this.#key);
      else this.#storage?.setItem(this.#key, JSON.stringify([...this.#notes]));
    } catch {
      // Full or forbidden: the notes live as long as the page.
    }
  }
}
