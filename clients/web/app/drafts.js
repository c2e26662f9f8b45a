// What is being written in each conversation, kept in this tab: it survives a reload.

import { storageOf } from "./i18n.js";
import { signal } from "./ui.js";

const EMPTY = Object.freeze({ text: "", quote: 0, edit: 0, before: "" });

/** The most characters of one draft that outlive a reload. */
export const MAX_KEPT = 100_000;

/**
 * One draft per conversation, as a signal of:
 *
 *   text    what is in the field
 *   quote   seq of the message that is answered to, 0 for none
 *   edit    seq of the message that is being changed, 0 for a new one
 *   before  what was in the field before a message began to be changed
 */
export class Drafts {
  #drafts = new Map();
  #prefix;
  #storage;

  constructor(user, storage = storageOf("sessionStorage")) {
    this.#prefix = `parlance.draft.${user}.`;
    this.#storage = storage;
  }

  of(conv) {
    let draft = this.#drafts.get(conv);
    if (draft === undefined) {
      draft = signal({ ...EMPTY, text: this.#read(conv) });
      this.#drafts.set(conv, draft);
    }
    return draft;
  }

  /** Change some fields of a draft. */
  set(conv, fields) {
    const draft = this.of(conv);
    draft.value = { ...draft.value, ...fields };
    this.#write(conv, draft.value.edit === 0 ? draft.value.text : draft.value.before);
  }

  /** Answer to message `seq`. */
  quote(conv, seq) {
    this.#stopEdit(conv);
    this.set(conv, { quote: seq });
  }

  /** Change message `seq`, whose text is `text`. */
  edit(conv, seq, text) {
    this.#stopEdit(conv);
    this.set(conv, { before: this.of(conv).value.text, text, edit: seq, quote: 0 });
  }

  /** Neither answer to nor change a message; what was written before is back. */
  release(conv) {
    this.#stopEdit(conv);
    this.set(conv, { quote: 0 });
  }

  /** It was sent. */
  clear(conv) {
    const { edit, before } = this.of(conv).value;
    this.set(conv, { ...EMPTY, text: edit === 0 ? "" : before });
  }

  #stopEdit(conv) {
    const { edit, before } = this.of(conv).value;
    if (edit !== 0) this.set(conv, { ...EMPTY, text: before });
  }

  #read(conv) {
    try {
      return this.#storage?.getItem(this.#prefix + conv) ?? "";
    } catch {
      return "";
    }
  }

  #write(conv, text) {
    try {
      if (text === "") this.#storage?.removeItem(this.#prefix + conv);
      else this.#storage?.setItem(this.#prefix + conv, text.slice(0, MAX_KEPT));
    } catch {
      // Full or forbidden: the draft lives as long as the page.
    }
  }
}
