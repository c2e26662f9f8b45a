// The answers on their way in one conversation: what they are made beside, and when to draw them.

import { MsgKind } from "../sdk/client.js";
import { signal } from "./ui.js";

/** Answers of which is remembered what they were made beside, thought and used. */
const KEPT_MAX = 64;

/** Follows `streamText` of `conv` through `take`, and what runs through `note`. */
export class RunningAnswers {
  #conv;
  #streams = new Map();
  #ticks = new Map();
  #moved = new Set();
  #frame = 0;

  constructor(conv) {
    this.#conv = conv;
    /** sid -> seq of the answer that it is made beside. */
    this.again = new Map();
  }

  close() {
    cancelAnimationFrame(this.#frame);
  }

  /** The answer that is or was running, undefined when it was not seen here. */
  stream(sid) {
    return this.#streams.get(sid);
  }

  /** A signal that changes with the text of a running answer, at most once a frame. */
  tick(sid) {
    // Twice: an answer that runs must not lose the signal that its row follows.
    if (!this.#ticks.has(sid)) keep(this.#ticks, sid, signal(0), 2 * KEPT_MAX);
    return this.#ticks.get(sid);
  }

  /** Take an event `streamText`. */
  take({ conv, sid }) {
    if (conv !== this.#conv) return;
    this.#moved.add(sid);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const moved of this.#moved) this.tick(moved).value += 1;
      this.#moved.clear();
    });
  }

  /** Note what runs now. `find`: seq -> message; `askOf`: as of `Model`. */
  note(streams, find, askOf) {
    for (const stream of streams) {
      keep(this.#streams, stream.sid, stream, KEPT_MAX);
      const { ask, isContinued } = askOf(stream);
      const asked = ask ? find(ask) : undefined;
      // Only the answer to an answer of its own is another one beside it.
      const isBeside = asked?.kind === MsgKind.AI_REPLY && asked.sender === stream.persona;
      if (!isBeside || isContinued) this.again.delete(stream.sid);
      else keep(this.again, stream.sid, ask, KEPT_MAX);
    }
  }
}

/** Put into a map that holds at most `most`: the oldest goes. */
function keep(map, key, value, most) {
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value);
}
