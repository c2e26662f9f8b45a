// Messages that others refer to and that are not among those held: quotes, and chosen siblings.

import { ClientError } from "../sdk/client.js";

const HELD_MAX = 300;
/** The server gives so many at once. */
const GET_MAX = 100;

/** Reads such messages of one conversation, each once; `changed()` tells that some have come. */
export class Referred {
  #client;
  #conv;
  #changed;
  #held = new Map();
  #asked = new Set();

  constructor(client, conv, changed) {
    this.#client = client;
    this.#conv = conv;
    this.#changed = changed;
  }

  /** The message; null when there is none, undefined when that is not known. */
  get(seq) {
    return this.#held.get(seq);
  }

  /** Read what of `seqs` is not being read already. What fails is read when it is asked again. */
  async want(seqs) {
    const fresh = seqs.filter((seq) => !this.#asked.has(seq)).slice(0, GET_MAX);
    if (fresh.length === 0) return;
    for (const seq of fresh) this.#asked.add(seq);
    try {
      const { msgs } = await this.#client.getMessages(this.#conv, fresh);
      const found = new Map(msgs.map((msg) => [msg.seq, msg]));
      for (const seq of fresh) this.#keep(seq, found.get(seq) ?? null);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      return;
    } finally {
      for (const seq of fresh) this.#asked.delete(seq);
    }
    this.#changed();
  }

  #keep(seq, msg) {
    this.#held.set(seq, msg);
    if (this.#held.size > HELD_MAX) this.#held.delete(this.#held.keys().next().value);
  }
}
