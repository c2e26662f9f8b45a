// One user's view of everything, kept true by revisions (docs/protocol.md §4 and §5). No I/O.
//
// Every feed has a revision that rises by one per change. What arrives in order is applied, what
// was seen is dropped, what is early is held; a gap that stays is closed by a `sync`. So whatever
// is lost, repeated or reordered on the way, the view ends equal to the store.

import { Role } from './messages.js';
import { toHex } from './outbox.js';

export const HELD_MAX = 64;
export const HOLD_MS = 500;
export const HEADS_MAX = 1000;
export const BUDGET_BYTES = 256 * 1024;
export const UNKNOWN = -1;
export const ME = 0;

/** Return the feed an item belongs to; 0 is the user's own. */
function feedOf(item) {
  if (item.t === 'msg' || item.t === 'conv' || item.t === 'member') return item.conv;
  return item.t === 'skip' ? item.feed : ME;
}

/**
 * One conversation as far as it is loaded. Read it freely; only `Feeds` writes to it.
 *
 * messages: Map by seq; seqs: of the messages held, ascending. row, my: the conversation and the
 * user's own view of it, sparse until loaded. members: Map user -> {rev, row}, those who are in or
 * were; membersWhole is false while those from before the feed began are not loaded. begunSeq:
 * messages up to this one are loaded by pages of history. reads: Map user -> {read, recv}.
 */
export class ConvView {
  constructor(conv) {
    this.conv = conv;
    this.messages = new Map();
    this.seqs = [];
    this.row = { id: conv };
    this.rowRev = -1;
    this.my = { conv };
    this.myRev = -1;
    this.ownSeq = 0;
    this.members = new Map();
    this.membersWhole = false;
    this.begunSeq = 0;
    this.reads = new Map();
  }

  /** True when the user left, was removed, or put the conversation away. */
  get left() {
    return Boolean(this.my.left) || this.roleGone;
  }

  /** True when the user is no member any more. */
  get roleGone() {
    return this.my.role === Role.GONE;
  }

  /** Highest seq known to exist. */
  get lastSeq() {
    return Math.max(this.row.last_seq ?? 0, this.seqs.at(-1) ?? 0);
  }

  /** Time of the last activity known, in Unix milliseconds. */
  get updated() {
    const newest = this.messages.get(this.seqs.at(-1));
    return Math.max(this.row.updated ?? 0, newest?.ts ?? 0);
  }

  /** Up to where the user has read, here or elsewhere; own messages count as read. */
  get read() {
    return Math.max(this.my.read ?? 0, this.my.min_seq ?? 0, this.ownSeq);
  }

  /** Messages that the user has read nowhere yet. */
  get unread() {
    return Math.max(0, this.lastSeq - this.read);
  }

  /** The messages held, ascending. */
  list() {
    return this.seqs.map((seq) => this.messages.get(seq));
  }

  /** The lowest seq from which nothing is missing up to the newest; 0 when that is not held. */
  wholeFrom() {
    let at = this.lastSeq + 1;
    for (let i = this.seqs.length - 1; i >= 0 && this.seqs[i] === at - 1; i--) at -= 1;
    return at <= this.lastSeq ? at : 0;
  }

  /** The members who are in, in the order of their ids. */
  present() {
    const rows = [...this.members].sort(([a], [b]) => a - b).map(([, held]) => held.row);
    return rows.filter((row) => row.role !== Role.GONE);
  }

  putMessage(msg) {
    if (!this.messages.has(msg.seq)) {
      let at = this.seqs.length;
      while (at > 0 && this.seqs[at - 1] > msg.seq) at -= 1;
      this.seqs.splice(at, 0, msg.seq);
    }
    this.messages.set(msg.seq, msg);
  }

  /** Take a row that shows revision `rev`; false when a newer one is held. */
  putRow(row, rev) {
    if (rev < this.rowRev) return false;
    this.row = { ...row, last_seq: row.last_seq ?? this.row.last_seq };
    this.rowRev = rev;
    return true;
  }

  putMember(row, rev) {
    const held = this.members.get(row.user);
    if (held !== undefined && rev <= held.rev) return false;
    this.members.set(row.user, { rev, row });
    return true;
  }

  /** Take everybody who is in at revision `rev`; who is not named has gone. */
  replaceMembers(members, rev) {
    for (const [user, held] of [...this.members]) if (held.rev <= rev) this.members.delete(user);
    for (const member of members) this.putMember(member, rev);
    this.membersWhole = true;
  }

  /** Take read cursors, which never go back. */
  putReads(reads) {
    for (const { user, read, recv } of reads) {
      const held = this.reads.get(user) ?? { read: 0, recv: 0 };
      this.reads.set(user, { read: Math.max(held.read, read), recv: Math.max(held.recv, recv) });
    }
  }

  /**
   * Take the own view as of revision `rev` of the user's feed; 0: read apart from the feed, which
   * counts until the feed has told. It always comes whole: what is left out is not set any more.
   */
  putMy(my, rev) {
    if (rev < this.myRev) return;
    this.my = { conv: this.conv, ...my };
    this.myRev = rev;
  }

  forgetMessages() {
    this.messages.clear();
    this.seqs = [];
  }

  forgetMembers() {
    this.members.clear();
    this.membersWhole = false;
  }

  /** Drop everything held, as of a store that is no more. */
  forgetRows() {
    this.forgetMessages();
    this.forgetMembers();
    this.reads.clear();
    this.row = { id: this.conv };
    this.rowRev = -1;
    this.ownSeq = 0;
  }
}

/**
 * How far one feed is known, and what came too early: `known` is the last revision applied without
 * a hole, `held` at most HELD_MAX early items by revision, `due` when the gap must be closed by a
 * sync (null without a gap), `dropped` the items not held because there were too many.
 */
class Cursor {
  constructor(known) {
    this.known = known;
    this.held = new Map();
    this.due = null;
    this.dropped = 0;
    this.asked = 0;
  }

  /** Return what can be applied now: nothing, or the item and what waited for it. */
  offer(item, now) {
    const { rev } = item;
    if (rev <= this.known) return [];
    if (rev === this.known + 1 && this.known !== UNKNOWN) {
      this.known = rev;
      return this.held.size === 0 ? [item] : [item, ...this._drain(now)];
    }
    if (this.held.size >= HELD_MAX && !this.held.has(rev)) {
      this.dropped += 1;
      this.due = now;
      return [];
    }
    this.held.set(rev, item);
    if (this.known === UNKNOWN) this.due = now;
    else this.due ??= now + HOLD_MS;
    return [];
  }

  /** A snapshot of revision `rev` was taken over; return the held items that follow it. */
  jump(rev, now) {
    this.known = Math.max(this.known, rev);
    for (const early of [...this.held.keys()]) if (early <= this.known) this.held.delete(early);
    return this._drain(now);
  }

  /** A sync had nothing newer: what was held before it was asked for has no meaning. */
  unanswered(now) {
    for (const rev of [...this.held.keys()]) if (rev <= this.asked) this.held.delete(rev);
    this.due = this.held.size > 0 ? now + HOLD_MS : null;
  }

  _drain(now) {
    const ready = [];
    while (this.held.has(this.known + 1)) {
      this.known += 1;
      ready.push(this.held.get(this.known));
      this.held.delete(this.known);
    }
    this.due = this.held.size > 0 ? now + HOLD_MS : null;
    return ready;
  }
}

/**
 * All feeds of one signed-in user and the rows that they keep true.
 *
 * Methods that take what the server sent return the events that follow from it, in order.
 * convs: Map of ConvView by id; personas: Map id -> {rev, row}; devices: Map hex id -> {rev, row};
 * profile: {rev, row} or null; epoch: which store the revisions belong to; user: who is signed in.
 */
export class Feeds {
  constructor() {
    this.convs = new Map();
    this.personas = new Map();
    this.devices = new Map();
    this.profile = null;
    this.epoch = 0;
    this.user = 0;
    this._since = 0;
    this._cursors = new Map([[ME, new Cursor(0)]]);
    this._asked = null;
    this._catchingUp = false;
    this._wanted = false;
    this._gapped = new Set();
  }

  // what is known

  /** The last revision of a feed applied without a hole; -1 when unknown. */
  known(feed) {
    return this._cursors.get(feed)?.known ?? UNKNOWN;
  }

  /** True from `beginSync` until its last part was taken over. */
  get syncing() {
    return this._asked !== null || this._catchingUp;
  }

  // syncs

  /** When `beginSync` must be called if nothing else arrives; Infinity for never. */
  due() {
    if (this._asked !== null) return Infinity;
    if (this._wanted || this._catchingUp) return 0;
    let due = Infinity;
    for (const feed of [...this._gapped]) {
      const at = this._cursors.get(feed)?.due ?? null;
      if (at === null) this._gapped.delete(feed);
      else due = Math.min(due, at);
    }
    return due;
  }

  /** Ask for a sync although no gap is known: the server dropped pushes, or time passed. */
  wantSync() {
    this._wanted = true;
  }

  /** Return the question to send; the next `finishSync` takes its answer. */
  beginSync(streams = [], budget = BUDGET_BYTES) {
    this._wanted = false;
    const strangers = [...this._cursors.keys()].filter((feed) => feed !== ME && !this.convs.has(feed));
    const byNeed = [...this.convs.keys()]
      .filter((conv) => this._cursors.has(conv))
      .map((conv) => [conv, this._cursors.get(conv).held.size > 0, this.convs.get(conv).updated])
      .sort((a, b) => b[1] - a[1] || b[2] - a[2])
      .map(([conv]) => conv);
    const asked = new Map();
    for (const feed of [...strangers, ...byNeed].slice(0, HEADS_MAX)) {
      asked.set(feed, Math.max(0, this._cursors.get(feed).known));
    }
    const heads = [...asked].map(([conv, rev]) => ({ conv, rev }));
    asked.set(ME, this._cursors.get(ME).known);
    for (const feed of asked.keys()) {
      const cursor = this._cursors.get(feed);
      cursor.asked = Math.max(0, ...cursor.held.keys());
    }
    this._asked = asked;
    // With heads and since 0, only what is listed would come: the rest of a first answer that did
    // not fit is asked for as what changed since the beginning.
    const since = this._since || (this._catchingUp ? 1 : 0);
    return { me_rev: asked.get(ME), since, heads, streams: streams.slice(0, 16), budget };
  }

  /** The answer will not come: the connection is gone or the request failed. */
  abandonSync() {
    this._asked = null;
    this._catchingUp = false;
  }

  /** Take over the answer to the last `beginSync`; begin another one while `due()` is 0. */
  finishSync(synced, now) {
    const asked = this._asked;
    this._asked = null;
    if (asked === null) return [];
    const replaced = this.epoch !== 0 && this.epoch !== synced.epoch;
    this.epoch = synced.epoch;
    if (replaced || synced.me_rev < asked.get(ME)) return this._forget();
    this._catchingUp = synced.more;
    const out = [];
    for (const item of synced.me) this._apply(item, now, out);
    this._jump(ME, this._cursors.get(ME), synced.me_rev, now, out);
    const unanswered = new Set(asked.keys());
    unanswered.delete(ME);
    for (const delta of synced.convs) {
      unanswered.delete(delta.conv);
      this._takeDelta(delta, asked.get(delta.conv) ?? 0, now, out);
    }
    if (!synced.more) {
      this._since = synced.now;
      this._settle(unanswered, now);
    }
    return out;
  }

  _settle(unanswered, now) {
    for (const feed of unanswered) {
      const cursor = this._cursors.get(feed);
      if (cursor === undefined) continue;
      cursor.unanswered(now);
      if (cursor.due !== null) this._gapped.add(feed);
      if (cursor.known === UNKNOWN && cursor.held.size === 0) this._cursors.delete(feed);
    }
  }

  /** Drop every row and revision: they belong to a store that is no more. */
  _forget() {
    this.convs.clear();
    this.personas.clear();
    this.devices.clear();
    this.profile = null;
    this._cursors = new Map([[ME, new Cursor(0)]]);
    this._gapped.clear();
    this._since = 0;
    this._catchingUp = false;
    this._wanted = true;
    return [{ type: 'forgotten' }];
  }

  _takeDelta(delta, asked, now, out) {
    const { conv, rev } = delta;
    if (!this._cursors.has(conv)) this._cursors.set(conv, new Cursor(UNKNOWN));
    const cursor = this._cursors.get(conv);
    const view = this._view(conv);
    if (rev < asked) {
      // The store was restored from a backup.
      cursor.known = UNKNOWN;
      view.forgetRows();
      out.push({ type: 'convReset', conv });
    } else if (delta.gap && rev >= cursor.known && view.seqs.length > 0) {
      view.forgetMessages();
      out.push({ type: 'convReset', conv });
    }
    for (const msg of delta.msgs) this._put(conv, view, msg, out);
    if (delta.row) view.putRow(delta.row, rev);
    if (delta.gap) {
      view.replaceMembers(delta.members, rev);
    } else {
      view.membersWhole ||= asked === 0;
      for (const member of delta.members) view.putMember(member, rev);
    }
    view.putReads(delta.reads);
    out.push({ type: 'convChanged', conv });
    this._jump(conv, cursor, rev, now, out);
  }

  // pushes and replies

  /** Take an item of a feed: a push, or what an acknowledgement stands for. */
  push(item, now) {
    const feed = feedOf(item);
    if (!this._cursors.has(feed)) this._cursors.set(feed, new Cursor(UNKNOWN));
    const cursor = this._cursors.get(feed);
    const out = [];
    const ready = cursor.offer(item, now);
    if (cursor.due !== null) this._gapped.add(feed);
    for (const one of ready) this._apply(one, now, out);
    return out;
  }

  /** Take rows that were read apart from the feed, such as a page of history. */
  addMessages(conv, msgs) {
    const out = [];
    const view = this._view(conv);
    for (const msg of msgs) this._put(conv, view, msg, out);
    return out;
  }

  /** Take a conversation as it was answered; an unknown feed starts there. */
  addInfo(info, now) {
    const conv = info.row.id;
    if (!conv) return [];
    const view = this._view(conv);
    view.putMy(info.my, 0);
    const out = [];
    this._start(conv, info.row, now, out);
    for (const member of info.members) view.putMember(member, 0);
    out.push({ type: 'convChanged', conv });
    return out;
  }

  /** Take a page of the list of conversations; unknown feeds start there. */
  addList(page, now) {
    const out = [];
    for (const my of page.mine) if (my.conv) this._view(my.conv).putMy(my, 0);
    for (const row of page.rows) {
      if (!row.id) continue;
      this._start(row.id, row, now, out);
      out.push({ type: 'convChanged', conv: row.id });
    }
    return out;
  }

  /** Take read cursors of others; they only grow. */
  addReceipt(receipt) {
    const view = this.convs.get(receipt.conv);
    if (view === undefined) return [];
    view.putReads(receipt.reads);
    return [{ type: 'readSeen', conv: receipt.conv }];
  }

  /** Let go of all but the newest `keep` messages of a conversation; `history` brings them back. */
  trim(conv, keep) {
    const view = this.convs.get(conv);
    if (view === undefined) return;
    const gone = view.seqs.splice(0, Math.max(0, view.seqs.length - keep));
    for (const seq of gone) view.messages.delete(seq);
  }

  /** Let go of all messages but those from `from` to `to` and the newest `newest`. */
  retain(conv, from, to, newest) {
    const view = this.convs.get(conv);
    if (view === undefined) return;
    const last = Math.max(0, view.seqs.length - newest);
    const stays = (seq, index) => index >= last || (seq >= from && seq <= to);
    const kept = view.seqs.filter(stays);
    for (const [index, seq] of view.seqs.entries()) if (!stays(seq, index)) view.messages.delete(seq);
    view.seqs = kept;
  }

  // applying

  _apply(item, now, out) {
    switch (item.t) {
      case 'msg': {
        const { seq, rev, ts, sender, kind, text, x } = item;
        this._put(item.conv, this._view(item.conv), { seq, rev, ts, sender, kind, text, x }, out);
        break;
      }
      case 'conv':
        if (this._view(item.conv).putRow(item.row, item.rev)) out.push({ type: 'convChanged', conv: item.conv });
        break;
      case 'member':
        if (this._view(item.conv).putMember(item.m, item.rev)) out.push({ type: 'convChanged', conv: item.conv });
        break;
      case 'my_conv':
        this._applyMy(item, now, out);
        break;
      case 'persona':
        if (stamp(this.personas, item.p.id, item.rev, item.p)) out.push({ type: 'personaChanged', persona: item.p });
        break;
      case 'profile':
        if (this.profile === null || item.rev > this.profile.rev) {
          this.profile = { rev: item.rev, row: item.u };
          out.push({ type: 'profileChanged', user: item.u });
        }
        break;
      case 'device':
        if (stamp(this.devices, toHex(item.d.device), item.rev, item.d)) out.push({ type: 'devicesChanged' });
        break;
      default: // `skip` only moves the revision
    }
  }

  _applyMy(item, now, out) {
    const conv = item.my.conv || item.row?.id;
    if (!conv) return;
    const view = this._view(conv);
    const wasGone = view.roleGone;
    view.putMy(item.my, item.rev);
    if (view.roleGone) {
      // Nothing is pushed from here on: coming back starts the feed anew.
      this._cursors.delete(conv);
      if (!wasGone) out.push({ type: 'convGone', conv });
      return;
    }
    if (item.row) this._start(conv, item.row, now, out);
    out.push({ type: 'convChanged', conv });
  }

  /** Take a row; a feed that was unknown begins at its revision. */
  _start(conv, row, now, out) {
    const rev = row.rev ?? 0;
    const view = this._view(conv);
    let cursor = this._cursors.get(conv);
    if (cursor !== undefined && cursor.known !== UNKNOWN) {
      view.putRow(row, rev);
      return;
    }
    if (cursor === undefined) {
      cursor = new Cursor(UNKNOWN);
      this._cursors.set(conv, cursor);
    }
    // What is held from an earlier stay may have changed since, and nobody said so.
    view.forgetMessages();
    view.forgetMembers();
    view.begunSeq = row.last_seq ?? 0;
    view.putRow(row, rev);
    this._jump(conv, cursor, rev, now, out);
  }

  _jump(feed, cursor, rev, now, out) {
    const ready = cursor.jump(rev, now);
    if (cursor.due !== null) this._gapped.add(feed);
    for (const item of ready) this._apply(item, now, out);
  }

  _view(conv) {
    if (!this.convs.has(conv)) this.convs.set(conv, new ConvView(conv));
    return this.convs.get(conv);
  }

  _put(conv, view, msg, out) {
    if (msg.sender === this.user) view.ownSeq = Math.max(view.ownSeq, msg.seq);
    const before = view.messages.get(msg.seq);
    if (before === undefined) {
      view.putMessage(msg);
      out.push({ type: 'messageAdded', conv, msg });
    } else if (msg.rev >= before.rev && !same(msg, before)) {
      view.putMessage(msg);
      out.push({ type: 'messageChanged', conv, msg });
    }
  }
}

function stamp(held, key, rev, row) {
  const before = held.get(key);
  if (before !== undefined && rev <= before.rev) return false;
  held.set(key, { rev, row });
  return true;
}

/** Compare two values of the protocol; a field that is absent equals one that is not set. */
function same(one, other) {
  one ??= null;
  other ??= null;
  if (one === other) return true;
  if (one === null || other === null || typeof one !== 'object' || typeof other !== 'object') return false;
  const keys = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...keys].every((key) => same(one[key], other[key]));
}
