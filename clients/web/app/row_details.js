// Fetches what rows of the list lack: the newest message, and who the other one is.
//
// The first sync brings both for the fifty conversations that were active last; older ones come
// from pages of the list, which carry neither.

import { ConvKind } from "../sdk/client.js";

const AT_ONCE = 3;
/** Rows that wait; those that came into view last go first, the others were scrolled past. */
const WAITING_MAX = 30;

/** Each conversation is asked about once for each reason. */
export class RowDetails {
  #asked = new Set();
  #client;
  #model;
  #running = 0;
  #waiting = [];

  constructor(client, model) {
    this.#client = client;
    this.#model = model;
  }

  /** These rows are in view. */
  want(views) {
    const fresh = views.flatMap((view) => this.#lacking(view));
    for (const [key] of fresh) this.#asked.add(key);
    this.#waiting = [...fresh, ...this.#waiting];
    for (const [key] of this.#waiting.splice(WAITING_MAX)) this.#asked.delete(key);
    this.#pump();
  }

  #lacking(view) {
    const { conv, row } = view;
    const found = [];
    if (view.lastSeq > 0 && view.seqs.length === 0) {
      found.push([`last ${conv} ${view.rowRev}`, () => this.#client.history(conv, 0, { limit: 1 })]);
    }
    const isAlone = view.present().every(({ user }) => user === this.#model.me);
    if (row.kind === ConvKind.DIRECT && isAlone && !view.membersWhole) {
      found.push([`who ${conv}`, () => this.#client.getConversation(conv)]);
    }
    return found.filter(([key]) => !this.#asked.has(key));
  }

  #pump() {
    while (this.#running < AT_ONCE && this.#waiting.length > 0) {
      const [key, ask] = this.#waiting.shift();
      this.#running += 1;
      ask()
        // Without it the row shows less; it is asked again when it comes into view anew.
        .catch(() => this.#asked.delete(key))
        .finally(() => {
          this.#running -= 1;
          this.#pump();
        });
    }
  }
}
