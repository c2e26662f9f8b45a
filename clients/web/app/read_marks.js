// What of a conversation counts as read: what was in view while the page could be seen.

import { signal } from "./ui.js";

/** Of what is left below the view, so much may be missing at the end, in pixels. */
const SEEN_PX = 40;

/** Keeps the read mark of one conversation, whose rows stand in `scroller`. */
export class ReadMarks {
  #client;
  #conv;
  #scroller;
  #seen = 0;

  constructor(client, conv) {
    this.#client = client;
    this.#conv = conv;
    /** {shown, count}: whether the end is out of view, and how much is new there. */
    this.below = signal({ shown: false, count: 0 });
  }

  /** The list of messages that is looked at. */
  watch(scroller) {
    this.#scroller = scroller;
  }

  /** What is left below the view, in pixels. */
  get room() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  /**
   * Look what is in view of the rows from seq `from` on; `isLive`: the newest is among them,
   * `isRead`: they can be read, so what is seen is marked.
   */
  look(view, { from, isLive, isRead }) {
    const atEnd = isLive && this.room <= SEEN_PX;
    this.#seen = Math.max(this.#seen, view.read);
    if (isRead && !document.hidden) this.#mark(atEnd ? view.lastSeq : this.#reached(from));
    const count = Math.max(0, view.lastSeq - this.#seen);
    const { shown, count: before } = this.below.peek();
    if (shown === atEnd || count !== before) this.below.value = { shown: !atEnd, count };
  }

  #mark(seq) {
    if (seq <= this.#seen) return;
    this.#seen = seq;
    this.#client.mark(this.#conv, seq);
  }

  /** How far one has read: not at all after a jump over what is new. */
  #reached(from) {
    if (from > this.#seen + 1) return 0;
    const bottom = this.#scroller.getBoundingClientRect().bottom;
    let lowest = 0;
    for (const article of this.#scroller.querySelectorAll("[data-place]")) {
      const box = article.getBoundingClientRect();
      const isSeen = box.bottom <= bottom + 1 || box.top < bottom - box.height / 2;
      if (isSeen) lowest = Math.max(lowest, Number(article.dataset.place));
    }
    return lowest;
  }
}
