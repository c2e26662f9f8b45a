/**
 * Requests of the protocol (docs/protocol.md §12), one method each.
 *
 * All of them wait for the connection, survive its loss (every request may be repeated: creates
 * carry a cid, the others set absolute state), resolve with the reply and throw what
 * `Client.request` throws.
 */

import { Disconnected, ServerError } from './events.js';
import { GenMode } from './messages.js';
import { makeCid } from './outbox.js';

const MAX_RID = 2 ** 32 - 1;

/** Hands out request ids and brings every reply to whoever asked. Each is settled once. */
export class Pending {
  constructor() {
    this._rid = 0;
    this._waiting = new Map();
  }

  get size() {
    return this._waiting.size;
  }

  /** Return a request id whose reply, or the error in its place, `settle` is to be given. */
  expect(settle) {
    this._rid = (this._rid % MAX_RID) + 1;
    this._waiting.set(this._rid, settle);
    return this._rid;
  }

  /** Nobody waits for this reply any more. */
  forget(rid) {
    this._waiting.delete(rid);
  }

  /** Bring a reply or an `err` to whoever asked; one that nobody waits for is dropped. */
  answered(frame) {
    const settle = this._waiting.get(frame.rid);
    if (settle === undefined) return;
    this._waiting.delete(frame.rid);
    const { code, reason, retry, detail } = frame;
    settle(frame.t === 'err' ? new ServerError(code, reason, retry, detail) : frame);
  }

  /** No reply will come to any of them. */
  connectionLost() {
    const waiting = [...this._waiting.values()];
    this._waiting.clear();
    for (const settle of waiting) {
      settle(new Disconnected('the connection was lost before the answer came'));
    }
  }
}

/** The requests; `Client` adds `request(name, fields, timeout)`. */
export class Calls {
  // messages

  /**
   * Replace the text of one's own message; `base` is the row's rev expected, 0 for any. With a
   * base, a repeat after a lost reply can fail as stale (311) although the edit was made.
   */
  edit(conv, seq, text, { base = 0, x = null } = {}) {
    return this.request('edit', { conv, seq, text, base, x });
  }

  /** Take a message back for everybody. */
  recall(conv, seq) {
    return this.request('recall', { conv, seq });
  }

  /** Read a page before (or after) seq `anchor`, 0 for the newest; it joins the view. */
  history(conv, anchor = 0, { back = true, limit = 50 } = {}) {
    return this.request('history', { conv, anchor, back, limit });
  }

  /** Read up to 100 messages by seq; they join the view. */
  getMessages(conv, seqs) {
    return this.request('get', { conv, seqs: [...seqs] });
  }

  // conversations

  /**
   * Create a conversation; for two people the one that exists is returned. Repeat with the same
   * `cid` to repeat the request safely, also after a restart.
   */
  createConversation(kind, { title = '', members = [], persona = null, set = null, cid } = {}) {
    const fields = { cid: cid ?? makeCid(), kind, title, members: [...members], persona, set };
    return this.request('conv_create', fields);
  }

  /** Read a conversation, one's own view of it and its first members; they join the view. */
  getConversation(conv) {
    return this.request('conv_get', { conv });
  }

  /** Read a page of conversations, most recently active first; they join the views. */
  conversationPage(cursor = '', { archived = false, limit = 50 } = {}) {
    return this.request('conv_list', { archived, cursor, limit });
  }

  /** Iterate over all conversations, most recently active first. */
  conversations({ archived = false } = {}) {
    return pages((cursor) => this.conversationPage(cursor, { archived }), 'rows');
  }

  /** Change a conversation for everybody; 0 or '' clears a field. */
  changeConversation(conv, set) {
    return this.request('conv_set', { conv, set });
  }

  /** Change one's own view of a conversation. */
  changeMyView(conv, set) {
    return this.request('my_set', { conv, set });
  }

  /** Delete it (its owner can restore it), or leave it. */
  dropConversation(conv) {
    return this.request('conv_drop', { conv });
  }

  /** Bring a deleted conversation back. */
  restoreConversation(conv) {
    return this.changeConversation(conv, { deleted: false });
  }

  /** Read a page of members. */
  memberPage(conv, cursor = '', limit = 100) {
    return this.request('members', { conv, cursor, limit });
  }

  /** Iterate over all members. */
  members(conv) {
    return pages((cursor) => this.memberPage(conv, cursor), 'items');
  }

  /** Add up to 50 people to a group. */
  addMembers(conv, users) {
    return this.request('member_add', { conv, users: [...users] });
  }

  /** Remove somebody from a group, or leave it. */
  dropMember(conv, user) {
    return this.request('member_drop', { conv, user });
  }

  /** Set a member's role and for how long from now they may not write. */
  setMember(conv, user, role, muteMs = 0) {
    return this.request('member_set', { conv, user, role, mute_ms: muteMs });
  }

  // personas and answers

  /** Create a persona, or change the one whose id is set. */
  savePersona(persona, cid = makeCid()) {
    return this.request('persona_save', { cid, p: persona });
  }

  /** Read one persona. */
  getPersona(persona) {
    return this.request('persona_get', { persona });
  }

  /** Read a page of the personas of one `Scope`. */
  personaPage(scope, cursor = '', limit = 100) {
    return this.request('persona_list', { scope, cursor, limit });
  }

  /** Iterate over all personas of one `Scope`. */
  personas(scope) {
    return pages((cursor) => this.personaPage(scope, cursor), 'items');
  }

  /** Remove one's own persona; what it said stays. */
  dropPersona(persona) {
    return this.request('persona_drop', { persona });
  }

  /** Ask for an answer to message `seq` apart from `send`; 0 is the last. */
  reply(conv, seq = 0, options = {}) {
    return this._generate(GenMode.REPLY, conv, seq, options);
  }

  /** Ask for another answer beside message `seq`. */
  regenerate(conv, seq = 0, options = {}) {
    return this._generate(GenMode.REGENERATE, conv, seq, options);
  }

  /** Ask for more of the answer in message `seq`. */
  continueAnswer(conv, seq = 0, options = {}) {
    return this._generate(GenMode.CONTINUE, conv, seq, options);
  }

  _generate(mode, conv, seq, { persona = null, opt = null, cid } = {}) {
    return this.request('gen', { conv, cid: cid ?? makeCid(), mode, seq, persona, opt });
  }

  /** Stop an answer; the text so far is kept. Stopping one that has ended does nothing. */
  cancel(sid) {
    return this.request('cancel', { sid });
  }

  /** Choose one of the answers that `regenerate` made beside one another. */
  pick(conv, seq) {
    return this.request('pick', { conv, seq });
  }

  /** Read the text of an answer from byte `off` on. */
  openStream(sid, part = 0, off = 0) {
    return this.request('open', { sid, part, off });
  }

  /**
   * Say whether a tool may run (event `toolAsked`); the first device that answers decides. Fails
   * with code 300 when the question is settled.
   */
  confirm(sid, call, yes) {
    return this.request('confirm', { sid, call, yes });
  }

  /** What one's own answers used today and this month, and what may be spent. */
  usage() {
    return this.request('usage', {});
  }

  // people and devices

  /** Read up to 100 people by id; unknown ones are left out. */
  async getUsers(users) {
    return (await this.request('user_get', { users: [...users] })).items;
  }

  /** Find people of one's own tenant by the beginning of their name. */
  async findUsers(query, limit = 20) {
    return (await this.request('user_find', { query, limit })).items;
  }

  /** Change one's own profile; `persona` is the choice that follows to other devices. */
  setProfile(set) {
    return this.request('profile_set', { set });
  }

  /** Where one is signed in: one device of each sign-in, one's own first. */
  async listDevices() {
    return (await this.request('device_list', {})).items;
  }

  /** Sign a device out, with all others of its sign-in. */
  dropDevice(device) {
    return this.request('device_drop', { device });
  }
}

async function* pages(read, rows) {
  let cursor = '';
  do {
    const page = await read(cursor);
    yield* page[rows];
    cursor = page.cursor;
  } while (cursor !== '');
}
