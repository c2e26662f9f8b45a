// Which part of a conversation's history is shown, and what is fetched and let go of for that.

import { ClientError } from "../sdk/client.js";
import { grown, nearest, newestSpan, spanAround } from "./span.js";

/** Messages that are fetched at once. */
export const PAGE = 60;
/** The newest messages stay held while one reads far back: the way back to them is short. */
const NEWEST_KEPT = 60;
/** More held than shown than this is let go of. */
const SLACK = 120;
/** Around a place that is jumped to, at least so many messages are wanted. */
const AROUND_MIN = 20;
const PATIENCE_MS = 400;

/** The run of messages of `conv` that is shown, as the SDK's `client` holds them. */
export class ShownHistory {
  #client;
  #conv;
  #span = null;
  #floor = 1;

  constructor(client, conv) {
    this.#client = client;
    this.#conv = conv;
  }

  /** {from, to}; null while there is nothing to be shown. */
  get span() {
    return this.#span;
  }

  /** The lowest seq there is, as far as that is known. */
  get floor() {
    return this.#floor;
  }

  /** Whether the newest message is among those shown. */
  get isLive() {
    return this.#span === null || this.#span.to >= (this.#view?.lastSeq ?? 0);
  }

  /** Whether the oldest one is. */
  get isWhole() {
    return this.#span?.from <= this.#floor;
  }

  get #view() {
    return this.#client.feeds.convs.get(this.#conv);
  }

  get #size() {
    return this.#span === null ? 0 : this.#span.to - this.#span.from + 1;
  }

  /** Read the newest page; throws ClientError. */
  async readNewest() {
    await this.#read(0, true);
  }

  /** Read a page before or after `anchor`; there is nothing below what the last one begins with. */
  async #read(anchor, back) {
    const page = await this.#client.history(this.#conv, anchor, { back, limit: PAGE });
    const first = page.msgs[0]?.seq;
    if (back && !page.more && first !== undefined) this.#floor = first;
    return page;
  }

  /** Have message `seq` and what is around it, as the part that is shown; throws ClientError. */
  async hold(seq) {
    let span = spanAround(this.#view.seqs, seq);
    if (span === null || this.#isThin(span)) {
      await this.#read(seq + PAGE / 2, true);
      span = spanAround(this.#view.seqs, nearest(this.#view.seqs, seq));
    }
    this.#span = span;
  }

  #isThin({ from, to }) {
    return to - from < AROUND_MIN && from > this.#floor && to < this.#view.lastSeq;
  }

  /** Have the newest messages as the part that is shown, unless there is one; throws ClientError. */
  async begin() {
    const view = this.#view;
    if (this.#span !== null || view.lastSeq === 0) return;
    this.#span = newestSpan(view.seqs, view.lastSeq);
    if (this.#size >= AROUND_MIN || this.isWhole) return;
    const reading = this.readNewest();
    // A few are held: more of them at once look better, but are not worth a long wait.
    if (this.#span === null) await reading;
    else await Promise.race([reading.catch(ignoreFailure), pause(PATIENCE_MS)]);
    this.showNewest();
  }

  /** Show the newest that are held; false when the newest of all is not among them. */
  showNewest() {
    const { seqs, lastSeq } = this.#view;
    const newest = newestSpan(seqs, lastSeq);
    this.#span = newest ?? this.#span;
    return newest !== null;
  }

  /** Go to the newest, reading them where they are not held; offline, what is shown stays. */
  async goToNewest() {
    if (this.showNewest()) return;
    await this.readNewest().catch(ignoreFailure);
    this.showNewest();
  }

  /** Read more at the "older" or "newer" side; throws ClientError. */
  async readMore(side) {
    const { from, to } = this.#span;
    const isOlder = side === "older";
    const page = await this.#read(isOlder ? from : to, isOlder);
    if (isOlder && page.msgs.length === 0) this.#floor = from;
  }

  /**
   * Take in what came beside what is shown; too much is cut at its "start" or "end". False when
   * what was shown is not held any more: then nothing is.
   */
  regrow(cut) {
    const has = (seq) => this.#view.messages.has(seq);
    const span = this.#span;
    const isHeld = span !== null && has(span.from) && has(span.to);
    this.#span = isHeld ? grown(span, has, cut) : null;
    return isHeld;
  }

  /** Let go of what is far from what is shown. */
  letGo() {
    if (this.#view.seqs.length <= this.#size + NEWEST_KEPT + SLACK) return;
    const { from, to } = this.#span;
    this.#client.feeds.retain(this.#conv, from, to, NEWEST_KEPT);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function ignoreFailure(error) {
  if (!(error instanceof ClientError)) throw error;
}
