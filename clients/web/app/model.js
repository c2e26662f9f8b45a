// The client's state as signals: views read them and are drawn again when they change.
//
// The rows stay where the SDK keeps them; a signal here only says that something changed. Many
// events of one packet change a signal once.

import { ClientError, ConvKind, EndReason, Link, PresenceState, Role } from "../sdk/client.js";
import { Asks } from "./asks.js";
import { Directory } from "./directory.js";
import { Typing } from "./typing.js";
import { batch, signal } from "./ui.js";

/** Refused messages that are kept to be tried again, per conversation. */
const FAILED_MAX = 50;
/** Answers that came to nothing, per conversation. */
const ENDED_MAX = 20;
/** Pages of the list of conversations that are read at once at most. */
const LIST_PAGE = 50;
const WATCHED_CONVS = 16;
const WATCHED_USERS = 256;

/** State of one signed-in person, kept true by the SDK's `client`, until `close`. */
export class Model {
  #client;
  #me;
  #versions = new Map();
  #views = new Map();
  #streams = new Map();
  #typing = new Typing();
  #failed = new Map();
  #ended = new Map();
  #asks;
  #dirty = { convs: new Set(), streams: new Set(), list: false, flags: new Set() };
  #flushing = false;
  #listener = (event) => this.#take(event);
  #lists = { open: { cursor: "", reading: null }, archived: { cursor: "", reading: null } };
  /** What is in view, by the part of the page that shows it. */
  #shown = new Map();
  #followed = "";
  #following = null;

  /** `me`: who is signed in. */
  constructor(client, { me }) {
    this.#client = client;
    this.#me = me;
    this.#asks = new Asks(me);
    /** {state: of `Link`, retryAt: ms since 1970 or 0, reason}. */
    this.link = signal({ state: client.link, retryAt: 0, reason: "" });
    /** Conversations one is in, pinned first, then the latest first: `ConvView`s. */
    this.convs = signal([]);
    /** One's own conversations that were deleted and can be brought back, as far as listed. */
    this.deleted = signal([]);
    /** False once the whole list of conversations is here. */
    this.moreConvs = signal(true);
    /** The same of those that are archived or deleted. */
    this.moreArchived = signal(true);
    /** The people and personas that one meets. */
    this.directory = new Directory(client);
    /** `PresenceState` by user, of those that are watched. */
    this.presence = signal(new Map());
    /** One's own profile. */
    this.profile = signal(client.feeds.profile?.row ?? { id: me });
    /** Tools that wait for a yes or no, oldest first: events `toolAsked`. */
    this.questions = signal([]);
    /** The last notice of the server: {kind, text, expires}, or null. */
    this.notice = signal(null);
    /** Messages that wait for the connection. */
    this.unsent = signal(client.unsent.length);
    client.addEventListener("*", this.#listener);
  }

  /** Stop following the client. */
  close() {
    this.#client.removeEventListener("*", this.#listener);
    this.directory.close();
    this.#typing.close();
  }

  get me() {
    return this.#me;
  }

  // conversations

  /**
   * One conversation as the SDK holds it, undefined when it is unknown; follows its changes.
   *
   * Another object after each change: a component that is handed the same properties as before is
   * not drawn again.
   */
  view(conv) {
    const version = this.#version(conv).value;
    const held = this.#client.feeds.convs.get(conv);
    if (held === undefined) return undefined;
    const last = this.#views.get(conv);
    if (last?.version === version && last.held === held) return last.view;
    const view = Object.create(held);
    this.#views.set(conv, { version, held, view });
    return view;
  }

  /** Messages of one's own that the server has not stored yet; follows their changes. */
  waiting(conv) {
    void this.#version(conv).value;
    return this.#client.unsent.filter(({ unsent }) => unsent.conv === conv);
  }

  /** Messages that were refused: {cid, text, x, code, reason, detail}; follows them. */
  failed(conv) {
    void this.#version(conv).value;
    return this.#failed.get(conv) ?? [];
  }

  /** Forget a refused message: it was dropped, or is tried again. */
  forgetFailed(conv, cid) {
    this.#failed.set(conv, this.failed(conv).filter((one) => one.cid !== cid));
    this.#touch(conv);
  }

  /** The running answers of a conversation; follows their begin, place, first text and end. */
  streams(conv) {
    void this.#streamVersion(conv).value;
    return this.#client.streams.of(conv);
  }

  /**
   * Answers that came to an end for which there are words, since the page was loaded: events
   * `streamEnded` with the question (`ask`), the `persona`, and `after`, the last seq at that time.
   * Most have no message (seq 0). Follows them.
   */
  ended(conv) {
    void this.#version(conv).value;
    return this.#ended.get(conv) ?? [];
  }

  /** Forget how an answer ended: it is tried again. */
  forgetEnded(conv, sid) {
    this.#ended.set(conv, this.ended(conv).filter((one) => one.sid !== sid));
    this.#touch(conv);
  }

  /**
   * What a running answer of `streams` answers: {ask, isContinued}; 0 when it is not known. A
   * continued one comes after the answer at `ask`, not in its place.
   */
  askOf({ sid, ask }) {
    const noted = this.#asks.of(sid);
    return { ask: ask || noted.ask, isContinued: noted.isContinued };
  }

  noteContinued(conv, sid) {
    this.#asks.continued(sid);
    this.#dirty.streams.add(conv);
    this.#flushSoon();
  }

  /** Who writes just now, without oneself; follows it. */
  typing(conv) {
    return this.#typing.in(conv);
  }

  /** Read more of the list of conversations; once it is whole, nothing happens. */
  async listMore({ archived = false } = {}) {
    const list = archived ? this.#lists.archived : this.#lists.open;
    const more = archived ? this.moreArchived : this.moreConvs;
    if (!more.peek()) return;
    list.reading ??= this.#readList(list, more, archived).finally(() => {
      list.reading = null;
    });
    await list.reading;
  }

  async #readList(list, more, archived) {
    const page = await this.#client.conversationPage(list.cursor, { archived, limit: LIST_PAGE });
    list.cursor = page.cursor;
    if (!page.cursor) more.value = false;
  }

  /** Get what is not held of a conversation: its row, its members. */
  async load(conv) {
    const view = this.#client.feeds.convs.get(conv);
    if (view?.row.kind === undefined || !view.membersWhole) await this.#client.getConversation(conv);
  }

  /**
   * Follow text, typing and presence of what a part of the page shows, `by` its name: what one of
   * them follows, it does not take from another. Where there is too much, who began first goes
   * first. Refused, the page shows less, and the next change asks again.
   */
  async follow(by, convs, users = []) {
    this.#shown.set(by, { convs: [...convs], users: [...users] });
    // Parts that change at the same time are told of once.
    this.#following ??= Promise.resolve().then(() => {
      this.#following = null;
      return this.#tellFollowed();
    });
    await this.#following;
  }

  async #tellFollowed() {
    const all = [...this.#shown.values()];
    const of = (what, most) => [...new Set(all.flatMap((one) => one[what]))].slice(0, most);
    const others = of("users", WATCHED_USERS + 1).filter((user) => user !== this.#me);
    const wanted = { convs: of("convs", WATCHED_CONVS), users: others.slice(0, WATCHED_USERS) };
    const asked = JSON.stringify(wanted);
    if (asked === this.#followed) return;
    this.#followed = asked;
    try {
      await this.#client.watch(wanted.convs, wanted.users);
    } catch (error) {
      ignoreRefusal(error);
      this.#followed = "";
    }
  }

  /** What a conversation is called: its title, the other person, the personas, or the members. */
  titleOf(view) {
    const { row, my } = view;
    if (my.remark) return my.remark;
    if (row.title) return row.title;
    if (row.kind === ConvKind.DIRECT) {
      const other = view.present().find((member) => member.user !== this.#me);
      return other ? this.nameOf(other.user) : "";
    }
    if (row.kind === ConvKind.AI) return row.persona ? this.nameOf(row.persona, view) : "";
    const here = [...view.present().map(({ user }) => user), ...(row.personas ?? [])];
    return here.map((id) => this.nameOf(id, view)).filter(Boolean).join(", ");
  }

  // names and presence

  /**
   * The name of a person or persona, "" while it is being asked for; within `view`, the name that
   * one goes by there.
   */
  nameOf(id, view = null) {
    const nick = view?.members.get(id)?.row.nick;
    if (nick) return nick;
    const row = this.#rowOf(id, view);
    return row?.nick || row?.name || "";
  }

  /** All names that somebody may be called by in `view`. */
  namesOf(id, view) {
    const row = this.#rowOf(id, view);
    const names = [view?.members.get(id)?.row.nick, row?.nick, row?.name];
    return [...new Set(names.filter(Boolean))];
  }

  /** People and personas have their ids from one range, so one of the two has it. */
  #rowOf(id, view) {
    if (id === this.#me) return this.profile.value;
    const { people, personas } = this.directory;
    const known = personas.value.get(id) ?? people.value.get(id);
    if (known !== undefined || !id) return known;
    const row = view?.row;
    const isPersona = row?.persona === id || row?.personas?.includes(id);
    if (!isPersona) this.directory.person(id);
    if (!view?.members.has(id)) this.directory.persona(id);
    return undefined;
  }

  /** Whose avatar it is: the avatar's id, 0 for none. */
  avatarOf(id, view = null) {
    return this.#rowOf(id, view)?.avatar ?? 0;
  }

  isOnline(user) {
    return (this.presence.value.get(user) ?? PresenceState.OFFLINE) !== PresenceState.OFFLINE;
  }

  // events

  #take(event) {
    const handle = Model.#on[event.type];
    if (handle === undefined) return;
    handle(this, event);
    this.#flushSoon();
  }

  #flushSoon() {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      batch(() => this.#flush());
    });
  }

  #flush() {
    const { convs, streams, flags } = this.#dirty;
    for (const conv of convs) this.#version(conv).value += 1;
    for (const conv of streams) this.#streamVersion(conv).value += 1;
    if (this.#dirty.list || convs.size > 0) this.#sort();
    if (flags.has("unsent")) this.unsent.value = this.#client.unsent.length;
    if (flags.has("questions")) this.questions.value = this.#client.questions.open;
    this.#dirty = { convs: new Set(), streams: new Set(), list: false, flags: new Set() };
  }

  #sort() {
    const mine = [...this.#client.feeds.convs.values()].filter((view) => !view.left && view.row.kind);
    const at = new Map(mine.map((view) => [view, view.updated]));
    mine.sort(
      (a, b) => Number(Boolean(b.my.pinned)) - Number(Boolean(a.my.pinned)) || at.get(b) - at.get(a),
    );
    this.convs.value = mine.filter((view) => !view.row.deleted);
    this.deleted.value = mine.filter((view) => view.row.deleted && view.row.owner === this.#me);
  }

  #touch(conv) {
    this.#dirty.convs.add(conv);
    this.#flushSoon();
  }

  #version(conv) {
    return entry(this.#versions, conv, () => signal(0));
  }

  #streamVersion(conv) {
    return entry(this.#streams, conv, () => signal(0));
  }

  static #touched(model, { conv }) {
    model.#dirty.convs.add(conv);
  }

  static #running(model, { conv }) {
    model.#dirty.streams.add(conv);
  }

  static #sending(model, { conv }) {
    model.#dirty.flags.add("unsent");
    model.#dirty.convs.add(conv);
  }

  static #asking(model) {
    model.#dirty.flags.add("questions");
  }

  /** What follows from each event. */
  static #on = {
    linkChanged: (model, { link, retry, reason }) => model.#linked(link, retry, reason),
    messageAdded(model, event) {
      model.#typing.stopped(event.conv, event.msg.sender);
      Model.#touched(model, event);
    },
    messageChanged: Model.#touched,
    convChanged: Model.#touched,
    convReset: Model.#touched,
    convGone: Model.#touched,
    readSeen: Model.#touched,
    forgotten: (model) => model.#forgotten(),
    personaChanged: (model, { persona }) => model.directory.meetPersonas([persona]),
    profileChanged(model, { user }) {
      model.profile.value = user;
    },
    streamStarted(model, event) {
      model.#asks.started(event);
      Model.#running(model, event);
    },
    streamMoved: Model.#running,
    // Who thought until now writes: the text itself is no matter of the model.
    streamText(model, event) {
      if (event.off === 0) Model.#running(model, event);
    },
    streamEnded(model, event) {
      model.#noteEnd(event);
      Model.#running(model, event);
      Model.#touched(model, event);
    },
    toolAsked: Model.#asking,
    toolSettled: Model.#asking,
    typingSeen(model, { conv, user, state }) {
      if (user !== model.me) model.#typing.seen(conv, user, state);
    },
    presenceSeen(model, { items }) {
      const states = new Map(model.presence.peek());
      for (const { user, state } of items) states.set(user, state);
      model.presence.value = states;
    },
    sendQueued: Model.#sending,
    sendDone: Model.#sending,
    sendFailed(model, event) {
      const { conv, cid, text, x, code, reason, detail } = event;
      const kept = [...(model.#failed.get(conv) ?? []), { cid, text, x, code, reason, detail }];
      model.#failed.set(conv, kept.slice(-FAILED_MAX));
      Model.#sending(model, event);
    },
    noticeSeen(model, { kind, text, expires }) {
      model.notice.value = { kind, text, expires };
    },
  };

  #linked(state, retry, reason) {
    this.link.value = { state, retryAt: retry > 0 ? Date.now() + retry : 0, reason };
    if (state !== Link.ONLINE) return;
    if (this.moreConvs.peek()) this.listMore().catch(ignoreRefusal);
  }

  #forgotten() {
    for (const conv of this.#versions.keys()) this.#dirty.convs.add(conv);
    this.#dirty.list = true;
    for (const list of Object.values(this.#lists)) list.cursor = "";
    this.moreConvs.value = true;
    this.moreArchived.value = true;
  }

  #noteEnd(event) {
    const { persona, ask } = this.#asks.of(event.sid);
    this.#asks.ended(event.sid);
    const isNews = event.reason === EndReason.ERROR || event.reason === EndReason.FILTERED;
    if (!isNews) return;
    const after = this.#client.feeds.convs.get(event.conv)?.lastSeq ?? 0;
    const kept = [...(this.#ended.get(event.conv) ?? []), { ...event, persona, ask, after }];
    this.#ended.set(event.conv, kept.slice(-ENDED_MAX));
  }

  /** One's own role. The row of the member is newer: a change of it is no news of the own view. */
  roleIn(view) {
    if (view.row.owner === this.#me) return Role.OWNER;
    return view.members.get(this.#me)?.row.role ?? view.my.role ?? Role.MEMBER;
  }

  /** Whether one may change what belongs to everybody in a conversation. */
  isManager(view) {
    return this.roleIn(view) >= Role.ADMIN;
  }

  /** Whether one leaves a conversation, instead of deleting it or putting it away. */
  leaves(view) {
    return view.row.kind === ConvKind.GROUP && this.roleIn(view) !== Role.OWNER;
  }

  /** Whether a message that one has not read calls one by name; as far as messages are held. */
  isCalled(view) {
    if (view.unread === 0) return false;
    const { seqs, messages } = view;
    for (let i = seqs.length - 1; i >= 0 && seqs[i] > view.read; i--) {
      const { sender, x } = messages.get(seqs[i]);
      if (sender !== this.#me && x?.mentions?.some((id) => id === this.#me || id === 0)) return true;
    }
    return false;
  }
}

function entry(map, key, make) {
  if (!map.has(key)) map.set(key, make());
  return map.get(key);
}

function ignoreRefusal(error) {
  if (!(error instanceof ClientError)) throw error;
}
