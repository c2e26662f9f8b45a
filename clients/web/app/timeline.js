// What a conversation looks like from top to bottom, as rows. Pure: no DOM, no clock, no words.

import { MsgKind } from "../sdk/messages.js";

/** Messages of one sender within this time stand together, in ms. */
export const TOGETHER_MS = 5 * 60_000;

/**
 * The rows of a conversation, each with a `key` that is its own as long as it is shown, and a
 * `kind`:
 *
 *   older, newer   there is more on that side
 *   day            {ts}: another day begins
 *   new            what follows was not read when the conversation was opened
 *   message        {msg, place, own, first, branch, quote}
 *   stream         {stream, first, branch}: an answer on its way, keyed as the message it becomes
 *   waiting        {sent, first, quote}: own, not stored yet (an entry of `Client.unsent`)
 *   failed         {failed, quote}: own, refused (of `Model.failed`)
 *   ended          {ended}: an answer that came to nothing (of `Model.ended`)
 *
 * `first`: it does not stand together with the row above. `quote`: {seq, msg} or null; `msg` is
 * as of `find`. `branch`: {at, seqs} of an answer with siblings, of which `at`
 * is shown; null for one without. `place`: the seq where the row stands.
 *
 * Takes:
 *
 *   find       seq -> message, undefined when it is not held, null when there is none
 *   span       {from, to}: the run that is shown; null for no stored message
 *   floor      the lowest seq there is
 *   lastSeq    the newest seq there is
 *   me         who reads
 *   line       messages after this seq are new; 0 for no line
 *   streams, waiting, failed, ended
 *   again      Map sid -> seq of the answer that it is made beside
 *
 * Returns {rows, wanted}: the seqs that are needed and not held.
 */
export function timeline(given) {
  const plan = new Plan(given);
  const { span, floor, lastSeq } = given;
  if (span !== null) {
    if (span.from > floor) plan.add({ kind: "older", key: `older:${span.from}` });
    for (let seq = span.from; seq <= span.to; seq++) plan.addStored(seq);
    if (span.to < lastSeq) {
      plan.add({ kind: "newer", key: `newer:${span.to}` });
      return plan.result();
    }
  }
  plan.addRunning();
  return plan.result();
}

class Plan {
  #given;
  #rows = [];
  #wanted = new Set();
  #groups;
  #hidden = new Set();
  #replaced = new Map();
  #ended = new Map();
  #day = "";
  #before = null;
  #lineDrawn = false;

  constructor(given) {
    this.#given = given;
    this.#groups = groupsOf(given);
    for (const [place, seqs] of this.#groups) {
      for (const seq of seqs) if (seq !== place) this.#hidden.add(seq);
    }
    for (const stream of given.streams) {
      const beside = given.again.get(stream.sid);
      if (beside !== undefined) this.#replaced.set(this.#placeOf(beside), stream);
    }
    for (const ended of given.ended) {
      if (ended.seq !== 0) continue;
      const beside = given.again.get(ended.sid);
      const at = beside === undefined ? ended.after : this.#placeOf(beside);
      this.#ended.set(at, [...(this.#ended.get(at) ?? []), ended]);
    }
  }

  result() {
    return { rows: this.#rows, wanted: [...this.#wanted] };
  }

  add(row) {
    this.#rows.push(row);
    this.#before = null;
  }

  /** The rows that belong where message `seq` stands. */
  addStored(seq) {
    const { find } = this.#given;
    const msg = find(seq);
    if (msg && !this.#hidden.has(seq)) {
      this.#addDay(msg);
      this.#addLine(msg);
      this.#addAnswer(seq, msg);
    }
    this.#addEnded(seq);
  }

  /** What is not stored: answers on their way, and one's own messages that wait or were refused. */
  addRunning() {
    const { streams, waiting, failed, span } = this.#given;
    if (span === null) this.#addEnded(0);
    const shown = new Set(this.#rows.map((row) => row.key));
    const placed = new Set(this.#replaced.values());
    for (const stream of streams) {
      const key = `s:${stream.sid}`;
      if (placed.has(stream) || shown.has(key)) continue;
      const first = this.#isFirst(stream.persona, 0);
      this.#push({ kind: "stream", key, stream, first, branch: null }, stream.persona);
    }
    for (const one of failed) {
      const quote = this.#quoteOf(one.x);
      this.add({ kind: "failed", key: `f:${keyOfCid(one.cid)}`, failed: one, quote });
    }
    for (const sent of waiting) {
      const first = this.#isFirst(this.#given.me, 0);
      const quote = this.#quoteOf(sent.unsent.x);
      const key = `w:${keyOfCid(sent.unsent.cid)}`;
      this.#push({ kind: "waiting", key, sent, first, quote }, this.#given.me);
    }
  }

  #addDay({ seq, ts }) {
    const day = new Date(ts).toDateString();
    if (day === this.#day) return;
    this.#day = day;
    this.add({ kind: "day", key: `d:${seq}`, ts });
  }

  #addLine({ seq, sender }) {
    const { line, me } = this.#given;
    if (line === 0 || this.#lineDrawn || seq <= line || sender === me) return;
    this.#lineDrawn = true;
    this.add({ kind: "new", key: "new" });
  }

  /** A message, or of several answers the chosen one, in the place of the first. */
  #addAnswer(place, msg) {
    const key = keyOf(place, msg);
    const known = (this.#groups.get(place) ?? []).filter((seq) => !this.#isGone(seq));
    const stream = this.#replaced.get(place);
    if (stream !== undefined) {
      const seqs = known.length > 0 ? known : [place];
      const branch = { at: seqs.length, seqs: [...seqs, 0] };
      const first = this.#isFirst(stream.persona, msg.ts);
      this.#push({ kind: "stream", key, place, stream, first, branch }, stream.persona, msg.ts);
      return;
    }
    const shown = known.length > 0 ? this.#chosen(known, msg) : msg;
    this.#addMessage(place, key, shown, branchOf(known, shown.seq));
  }

  #isGone(seq) {
    const msg = this.#given.find(seq);
    return msg === null || Boolean(msg?.x?.recalled);
  }

  /** Which of the siblings counts: the one that is not off; rather none is missing for that. */
  #chosen(seqs, fallback) {
    const { find } = this.#given;
    const held = seqs.map((seq) => find(seq));
    const chosen = held.findLast((msg) => msg && !msg.x?.off);
    if (chosen !== undefined) return chosen;
    seqs.forEach((seq, index) => held[index] === undefined && this.#wanted.add(seq));
    return held.findLast(Boolean) ?? fallback;
  }

  #addMessage(place, key, msg, branch) {
    const row = { kind: "message", key, place, msg, own: false, first: true, branch, quote: null };
    if (msg.kind === MsgKind.SYSTEM) {
      this.add(row);
      return;
    }
    const { ts } = this.#given.find(place);
    row.own = msg.sender === this.#given.me;
    row.quote = this.#quoteOf(msg.x);
    row.first = row.quote !== null || this.#isFirst(msg.sender, ts);
    this.#push(row, msg.sender, ts);
  }

  #addEnded(after) {
    for (const ended of this.#ended.get(after) ?? []) {
      this.add({ kind: "ended", key: `e:${ended.sid}`, ended });
    }
  }

  #quoteOf(x) {
    const seq = x?.quote ?? 0;
    if (seq === 0) return null;
    const msg = this.#given.find(seq);
    if (msg === undefined) this.#wanted.add(seq);
    return { seq, msg };
  }

  #push(row, sender, ts = 0) {
    this.#rows.push(row);
    this.#before = { sender, ts };
  }

  /** `ts` 0 is now: right after whatever is above. */
  #isFirst(sender, ts) {
    const before = this.#before;
    if (before === null || before.sender !== sender) return true;
    return ts !== 0 && before.ts !== 0 && Math.abs(ts - before.ts) > TOGETHER_MS;
  }

  /** Where the answers beside `seq` are shown. */
  #placeOf(seq) {
    return this.#given.find(seq)?.x?.alts?.[0] ?? seq;
  }
}

/**
 * Answers that belong together: a map of the first to all of them. An answer that has just come
 * names its siblings a moment later; until then `again` tells.
 */
function groupsOf({ find, span, again }) {
  const groups = new Map();
  if (span === null) return groups;
  for (let seq = span.from; seq <= span.to; seq++) {
    const x = find(seq)?.x;
    let alts = x?.alts ?? null;
    if (alts === null && again.has(x?.sid)) {
      const beside = again.get(x.sid);
      alts = [...(find(beside)?.x?.alts ?? [beside]), seq];
    }
    if (alts === null || x.recalled) continue;
    const known = groups.get(alts[0]) ?? [];
    if (alts.length > known.length) groups.set(alts[0], alts);
  }
  return groups;
}

function branchOf(seqs, shown) {
  return seqs.length > 1 ? { at: seqs.indexOf(shown), seqs } : null;
}

/** An answer has the key that it had while it was on its way. */
function keyOf(place, msg) {
  return msg.x?.sid ? `s:${msg.x.sid}` : `m:${place}`;
}

function keyOfCid(cid) {
  return Array.from(cid, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether two rows look the same: then nothing has to be drawn. */
export function sameRow(one, other) {
  const names = Object.keys(one);
  if (names.length !== Object.keys(other).length) return false;
  return names.every((name) => sameValue(one[name], other[name]));
}

function sameValue(one, other) {
  if (one === other) return true;
  if (!one || !other) return false;
  if (Object.hasOwn(one, "seqs") && Object.hasOwn(other, "seqs")) {
    return one.at === other.at && one.seqs.join() === other.seqs.join();
  }
  return Object.hasOwn(one, "seq") && Object.hasOwn(one, "msg") && one.seq === other.seq && one.msg === other.msg;
}
