/**
 * The client: one signed-in user on one device, over whatever connections come and go.
 *
 *     const account = new Account('parlance://127.0.0.1:8420');
 *     await account.guest('Ada');
 *     const client = new Client('parlance://127.0.0.1:8420', account.token);
 *     await client.start();
 *     await client.waitOnline();
 *     await client.send(conv, 'hello');          // stored on the server when this resolves
 *     for await (const event of client.events()) ...
 *
 * Guarantees. A message given to `send` or `post` reaches the server exactly once and in the order
 * of its conversation, whatever happens to connections in between (and to this process or page,
 * with a durable state). Once `link` is ONLINE, the views hold everything that was missed.
 * Answers that were running go on where they were.
 */

import { Calls, Pending } from './calls.js';
import { encode } from './codec.js';
import { openConnection, parseAddress } from './connection.js';
import {
  AddressError,
  ClientError,
  Disconnected,
  Emitter,
  EVENTS_MAX,
  Link,
  RequestTimeout,
  ServerError,
  SignInFailed,
  Stopped,
} from './events.js';
import { Feeds } from './feeds.js';
import { HEADER_BYTES, ProtocolError } from './frames.js';
import { AuthMethod, Caps, Code, MsgKind, NoticeKind, TypingState } from './messages.js';
import { cleanText, makeCid, Outbox, Outgoing } from './outbox.js';
import { MemoryState } from './storage.js';
import { Questions, Streams } from './streams.js';
import { Backoff, DEAD, Heartbeat, PING, SYSTEM_CLOCK, TIMING } from './timing.js';

export { Account } from './auth.js';
export * from './events.js';
export * from './storage.js';
export { cleanText, makeCid, toHex } from './outbox.js';
export {
  Code,
  ConvKind,
  EndReason,
  MsgKind,
  NoticeKind,
  PresenceState,
  Role,
  Scope,
  Settled,
  StreamPart,
  StreamState,
  TalkMode,
  TypingState,
} from './messages.js';

/** Below the server's bound of 32, which would stop it reading and delay pings. */
export const IN_FLIGHT_MAX = 24;
/** Requests that wait for a connection or a free place; one more is refused. */
export const REQUESTS_MAX = 1000;

const CAPS = Caps.AI_DELTAS | Caps.PRESENCE | Caps.RECEIPTS;
const HELLO_BYTES = 512 * 1024;
const MAX_FRAME = 1024 * 1024;
const RETRY_MIN_MS = 100;
/** A UTF-16 unit in UTF-8 at most, and all of a message but its text, unless it has much `meta`. */
const UNIT_BYTES = 3;
const REST_BYTES = 16 * 1024;
const LEAVE_AGAIN_MS = 100;

/**
 * A user's connection that mends itself.
 *
 * Read only: `feeds`, `streams`, `questions` (what is known), `user` and `tenant` (who is signed
 * in, 0 before the first sign-in), `limits` (what the server accepts), `link`, `connects`
 * (sign-ins so far), `device` (16 bytes that name this installation, after `start`).
 */
export class Client extends Calls {
  /**
   * @param {string} url of the server: parlance://, parlances://, ws://, wss:// or, for pages,
   *   http:// and https://
   * @param {(renew: boolean) => Promise<string>} token returns a token, and a new one when `renew`
   *   says that the last was refused or is about to expire. It may throw SignInFailed, which stops
   *   the client; everything else is tried again.
   * @param {object} options see client.d.ts
   */
  constructor(url, token, options = {}) {
    super();
    const { timing = {}, random = Math.random, clock = SYSTEM_CLOCK } = options;
    this.address = parseAddress(url);
    this.device = null;
    this.tenant = 0;
    this.limits = {};
    this.link = Link.CONNECTING;
    this.connects = 0;
    this.feeds = new Feeds();
    this.streams = new Streams();
    this.questions = new Questions();
    this._token = token;
    this._state = options.state ?? new MemoryState();
    this._agent = (options.agent ?? 'Parlance SDK/javascript').slice(0, 64);
    this._lang = (options.lang ?? globalThis.navigator?.language ?? '').slice(0, 16);
    this._confirms = options.confirms ?? false;
    this._open = options.open ?? openConnection;
    this._transport = { WebSocket: options.WebSocket, tls: options.tls };
    this._timing = { ...TIMING, ...timing };
    this._random = random;
    this._clock = clock;
    this._backoff = new Backoff(this._timing, random);
    this._outbox = new Outbox(this._timing, random);
    this._pending = new Pending();
    this._emitter = new Emitter();
    this._watch = { convs: [], users: [] };
    this._watchTold = this._watch;
    this._asks = [];
    this._flying = 0;
    this._conn = null;
    this._pulse = null;
    this._signedIn = false;
    this._lost = () => {};
    this._retry = () => {};
    this._bye = null;
    this._renew = false;
    this._stopped = null;
    this._timer = null;
    this._leaveAt = Infinity;
    this._leaveLatest = 0;
    this._syncAt = 0;
    this._syncNotBefore = 0;
    this._marks = new Map();
    this._marked = new Map();
    this._marksDue = Infinity;
    this._dirty = false;
    this._saving = null;
    this._running = null;
    this._onWake = () => this._woken();
  }

  get user() {
    return this.feeds.user;
  }

  // life

  /**
   * Begin to connect; messages left unsent by an earlier run go first.
   *
   * @throws {StateInUse} another client uses the state
   */
  async start() {
    const saved = await this._state.load();
    this.device = saved.device;
    for (const unsent of saved.unsent) this._outbox.add(new Outgoing(unsent, true));
    for (const [target, names] of wakeSources()) {
      for (const name of names) target.addEventListener(name, this._onWake);
    }
    this._running = this._run().catch((error) => {
      this._stop(new Stopped(`internal error: ${error.message}`));
    });
  }

  /** Leave, save what is unsent, and end every subscription. The client cannot start again. */
  async close() {
    this._stop(new Stopped('closed'));
    await this._running;
    if (this._state.durable && this.device !== null) {
      await this._saving;
      await this._state.save(this._saved());
    }
    await this._state.close();
  }

  /**
   * Resolve when everything that was missed is here.
   *
   * @throws {Stopped} the client gave up; the reason says what to do
   * @throws {RequestTimeout} not within `timeout` ms
   */
  async waitOnline(timeout = Infinity) {
    if (this.link === Link.ONLINE) return;
    if (this._stopped !== null) throw this._stopped;
    const events = this.events();
    const late = timeout === Infinity ? null : this._clock.set(() => events.close(), timeout);
    try {
      for await (const event of events) {
        if (event.type === 'linkChanged' && event.link === Link.ONLINE) return;
      }
    } finally {
      if (late !== null) this._clock.clear(late);
    }
    throw this._stopped ?? new RequestTimeout(`not online within ${timeout / 1000} s`);
  }

  /** Do not wait any longer for the next attempt: somebody looks at the screen. */
  retryNow() {
    this._retry();
  }

  /**
   * The machine woke up or the page came to the foreground: see at once whether the connection
   * still lives, and what was missed. Clients of a page call this by themselves when the page is
   * shown or restored and when its network comes or goes; in a worker, the page has to say so.
   */
  wake() {
    if (this._conn === null || !this._signedIn) {
      this.retryNow();
      return;
    }
    this._pulse.doubt(this._clock.now());
    this.feeds.wantSync();
    this._tick();
  }

  _woken() {
    if (globalThis.document?.visibilityState !== 'hidden') this.wake();
  }

  // events

  /** The events from now on, for one reader, as an asynchronous iterator. */
  events(limit = EVENTS_MAX) {
    const subscription = this._emitter.subscribe(limit);
    if (this._stopped !== null) subscription.close();
    return subscription;
  }

  /** Call `listener` with every event of a type at once; '*' is every type. */
  addEventListener(type, listener) {
    this._emitter.addEventListener(type, listener);
  }

  /** Stop calling it. */
  removeEventListener(type, listener) {
    this._emitter.removeEventListener(type, listener);
  }

  _emit(events) {
    this._emitter.emit(events);
  }

  // sending

  /**
   * Put a message into the outbox and return it; the rest happens by itself.
   *
   * @throws {InvalidText} the text can never be accepted
   * @throws {OutboxFull} 1,000 messages wait already
   * @throws {Stopped} the client was closed or gave up
   */
  post(conv, text, { kind = MsgKind.TEXT, x = null, cid = makeCid() } = {}) {
    if (this._stopped !== null) throw this._stopped;
    // Cleaned here by the server's own rules, so that the view equals the store.
    const unsent = { conv, cid, kind, text: cleanText(text), x, created: Date.now() };
    const entry = new Outgoing(unsent, !this._state.durable);
    this._outbox.add(entry);
    this._changed();
    this._emit([{ type: 'sendQueued', conv, cid, text: unsent.text }]);
    this._pump();
    return entry;
  }

  /**
   * Send a message and resolve with `sent` once the server has stored it, however long that takes.
   *
   * @throws {ServerError} refused for good; it is not stored
   */
  async send(conv, text, options = {}) {
    return this.post(conv, text, options).acknowledged;
  }

  /** Messages that the server has not acknowledged, oldest first per conversation. */
  get unsent() {
    return this._outbox.entries();
  }

  /** Move the read cursor forward; told to the server within a second. */
  mark(conv, read) {
    const known = Math.max(this._marks.get(conv) ?? 0, this._marked.get(conv) ?? 0);
    if (read <= known) return;
    this._marks.set(conv, read);
    if (this._marksDue === Infinity) this._marksDue = this._clock.now() + this._timing.mark;
    this._arm();
  }

  /**
   * Tell the others that the user writes, or has stopped (`TypingState`); call it at most once in
   * 4 s. Never stored.
   */
  typing(conv, state = TypingState.TEXT) {
    if (this._signedIn) this._write({ t: 'typing', conv, state });
  }

  /**
   * Follow typing, presence and AI text of these; restored on every connection. Resolves with
   * `watching`, or at once with null while there is no connection. At most 16 conversations.
   */
  async watch(convs, users = []) {
    this._watch = { convs: [...convs], users: [...users] };
    return this._signedIn ? this.request('watch', { w: this._watch }) : null;
  }

  // requests

  /**
   * Send a request by its name (docs/protocol.md §12) and resolve with its reply.
   *
   * Waits for a connection, and repeats the request when one is lost or the server says "later",
   * until `timeout` ms are over.
   *
   * @throws {ServerError} refused; "later" only if the time does not suffice for it
   * @throws {RequestTimeout} no answer in time; the outcome is unknown
   * @throws {Stopped} the client was closed or gave up
   */
  request(name, fields, timeout = 30_000) {
    if (this._stopped !== null) return Promise.reject(this._stopped);
    if (this._asks.length >= REQUESTS_MAX) {
      return Promise.reject(new ClientError('too many requests wait already'));
    }
    return new Promise((resolve, reject) => {
      const deadline = this._clock.now() + timeout;
      const ask = { name, fields, deadline, notBefore: 0, rid: 0, timer: null };
      ask.settle = (call, value) => {
        this._clock.clear(ask.timer);
        call(value);
      };
      ask.resolve = (reply) => ask.settle(resolve, reply);
      ask.reject = (error) => ask.settle(reject, error);
      ask.timer = this._clock.set(() => this._tooLate(ask, timeout), timeout);
      this._asks.push(ask);
      this._pump();
    });
  }

  _tooLate(ask, timeout) {
    this._asks = this._asks.filter((other) => other !== ask);
    if (ask.rid !== 0) {
      this._pending.forget(ask.rid);
      this._flying -= 1;
    }
    ask.reject(new RequestTimeout(`no answer in ${timeout / 1000} s`));
    this._pump();
  }

  _writeAsks(now) {
    const waiting = [];
    for (const ask of this._asks) {
      if (this._flying >= IN_FLIGHT_MAX || ask.notBefore > now) waiting.push(ask);
      else this._writeAsk(ask);
    }
    this._asks = waiting;
  }

  _writeAsk(ask) {
    ask.rid = this._pending.expect((outcome) => this._answered(ask, outcome));
    this._flying += 1;
    try {
      this._write({ t: ask.name, ...ask.fields, rid: ask.rid });
    } catch (error) {
      this._pending.forget(ask.rid);
      this._flying -= 1;
      ask.reject(error);
    }
  }

  _answered(ask, outcome) {
    this._flying -= 1;
    ask.rid = 0;
    if (!(outcome instanceof Error)) {
      ask.resolve(outcome);
      return;
    }
    if (this._stopped !== null) {
      ask.reject(this._stopped);
      return;
    }
    if (outcome instanceof ServerError) {
      const again = this._clock.now() + Math.max(outcome.retry, RETRY_MIN_MS);
      if (outcome.retry < 0 || again >= ask.deadline) {
        ask.reject(outcome);
        return;
      }
      ask.notBefore = again;
    }
    this._asks.push(ask);
  }

  // connecting

  async _run() {
    while (this._stopped === null) {
      this._setLink(Link.CONNECTING);
      const reason = await this._liveOnce();
      if (this._stopped !== null) return;
      const wait = this._backoff.wait(this._clock.now());
      this._setLink(Link.OFFLINE, wait, reason, this._bye?.code ?? 0);
      await this._pause(wait);
    }
  }

  _pause(wait) {
    return new Promise((resolve) => {
      const timer = this._clock.set(resolve, wait);
      this._retry = () => {
        this._clock.clear(timer);
        resolve();
      };
    });
  }

  /** Connect, sign in and stay until the connection is lost; return why. */
  async _liveOnce() {
    this._bye = null;
    const lost = new Promise((resolve) => {
      this._lost = resolve;
    });
    let opened;
    try {
      const opening = this._connect();
      // `close` need not wait for a server that does not answer.
      opened = await Promise.race([opening, lost]);
      if (!Array.isArray(opened)) {
        opening.then(([late]) => late.close()).catch(() => {});
        return opened;
      }
    } catch (error) {
      if (error instanceof SignInFailed) this._stop(new Stopped(error.reason, error.code));
      if (error instanceof AddressError) this._stop(new Stopped(error.message));
      return error.message;
    }
    const [connection, token] = opened;
    if (this._stopped !== null) {
      connection.close();
      return '';
    }
    this._conn = connection;
    this._sayHello(token);
    const silent = () => connection.abort('the server did not answer the sign-in');
    this._welcomeTimer = this._clock.set(silent, this._timing.welcome);
    const reason = await lost;
    this._clock.clear(this._welcomeTimer);
    connection.close();
    this._disconnected();
    return reason;
  }

  async _connect() {
    const token = await this._token(this._renew);
    const options = { ...this._transport, timeout: this._timing.connect };
    return [await this._open(this.address, this, options), token];
  }

  _sayHello(token) {
    this.feeds.abandonSync();
    this.streams.reconnected();
    const sync = this.feeds.beginSync(this.streams.positions(), HELLO_BYTES);
    this._watchTold = this._watch;
    const watches = this._watch.convs.length > 0 || this._watch.users.length > 0;
    this._conn.send({
      t: 'hello',
      ver: 0,
      method: AuthMethod.JWT,
      secret: token,
      device: this.device,
      client: this._agent,
      caps: CAPS | (this._confirms ? Caps.CONFIRM : 0),
      hb: Math.max(1, Math.floor(this._timing.heartbeat / 1000)),
      max_frame: MAX_FRAME,
      lang: this._lang,
      sync,
      watch: watches ? this._watch : null,
    });
  }

  _disconnected() {
    this._conn = null;
    this._pulse = null;
    this._leaveAt = Infinity;
    this._signedIn = false;
    this.feeds.abandonSync();
    this._clock.clear(this._timer?.handle);
    this._timer = null;
    this._outbox.connectionLost();
    this._pending.connectionLost();
  }

  /** Called by the connection. */
  connectionLost(reason) {
    this._lost(this._bye?.reason || reason);
  }

  _leave(now) {
    const busy = this._pending.size > 0 || this.streams.running.size > 0;
    if (busy && now < this._leaveLatest) {
      this._leaveAt = Math.min(now + LEAVE_AGAIN_MS, this._leaveLatest);
      return;
    }
    this._conn.close();
    this.connectionLost('the server asked us to reconnect');
  }

  async _renewToken() {
    try {
      await this.request('auth', { method: AuthMethod.JWT, secret: await this._token(true) });
    } catch {
      // The server will end the connection; what follows then decides.
    }
  }

  _setLink(link, retry = 0, reason = '', code = 0) {
    if (link === this.link && link !== Link.OFFLINE) return;
    this.link = link;
    this._emit([{ type: 'linkChanged', link, retry, reason, code }]);
  }

  /** Give up for good: nobody waits in vain. */
  _stop(why) {
    if (this._stopped !== null) return;
    this._stopped = why;
    for (const [target, names] of wakeSources()) {
      for (const name of names) target.removeEventListener(name, this._onWake);
    }
    if (this._signedIn) this._conn.send({ t: 'bye', code: 0, reason: 'leaving' });
    this._conn?.close();
    this._lost(why.reason);
    this._retry();
    this._setLink(Link.STOPPED, 0, why.reason, why.code);
    this._outbox.failAll(why);
    const asks = this._asks;
    this._asks = [];
    for (const ask of asks) ask.reject(why);
    this._pending.connectionLost();
    this._emitter.closeSubscriptions();
  }

  // what the connection brings

  /** Called by the connection with whole messages, in order. */
  framesReceived(frames) {
    // Any bytes are a sign of life.
    this._pulse?.received();
    for (const frame of frames) {
      HANDLERS[frame.t]?.(this, frame);
      if (frame.rid) this._pending.answered(frame);
    }
    this._pump();
  }

  /** Called by the connection: a message could not be understood, so a sync must bring its effect. */
  frameRefused() {
    this.feeds.wantSync();
    this._pump();
  }

  _welcomed(frame) {
    const now = this._clock.now();
    this._emit(this.questions.reconnected());
    this._clock.clear(this._welcomeTimer);
    this.feeds.user = frame.user;
    this.tenant = frame.tenant;
    this.limits = frame.limits;
    this.connects += 1;
    this._renew = false;
    this._backoff.connected(now);
    const interval = Math.min(frame.hb * 1000, this._timing.heartbeat);
    this._pulse = new Heartbeat(interval, this._timing.pong, now, this._random());
    this._syncAt = this._nextSync(now);
    this._signedIn = true;
    if (this._watch !== this._watchTold) this._writeWatch();
    this._setLink(Link.CATCHING_UP);
  }

  _byeReceived(frame) {
    this._bye = frame;
    const unwelcome = frame.code === Code.BAD_CREDENTIALS || frame.code === Code.EXPIRED;
    if (frame.retry >= 0 || (unwelcome && !this._renew)) {
      this._backoff.told(frame.retry, frame.spread_ms);
      this._renew = unwelcome;
    } else {
      this._stop(new Stopped(frame.reason, frame.code));
    }
    this._conn?.close();
    this.connectionLost(frame.reason);
  }

  /** The server asks us to leave soon: do, once nothing is under way here. */
  _goAway(frame) {
    this._leaveAt = this._clock.now() + this._random() * frame.spread_ms;
    this._leaveLatest = this._leaveAt + frame.drain_ms;
    this._backoff.told(0, 0);
  }

  // views

  /** Emit events of the feeds, and end the streams whose message is there now. */
  _take(events) {
    const out = [];
    for (const event of events) {
      out.push(event);
      if (event.msg !== undefined) out.push(...this.streams.stored(event.conv, event.msg));
    }
    this._emit(out);
  }

  _push(item) {
    this._take(this.feeds.push(item, this._clock.now()));
  }

  _syncAnswered(outcome) {
    if (outcome instanceof Error) {
      // Asked again a little later.
      this.feeds.abandonSync();
      this.feeds.wantSync();
      const wait = Math.max(outcome.retry ?? 0, this._timing.backoff);
      this._syncNotBefore = this._clock.now() + wait;
      return;
    }
    this._take(this.feeds.finishSync(outcome, this._clock.now()));
    this._emit(this.streams.resume(outcome.streams));
    if (!this.feeds.syncing && this.feeds.due() !== 0) this._caughtUp();
  }

  _caughtUp() {
    for (const [conv, read] of this._marked) {
      const view = this.feeds.convs.get(conv);
      if (view === undefined || (view.my.read ?? 0) >= read) continue;
      this._marks.set(conv, Math.max(read, this._marks.get(conv) ?? 0));
      this._marksDue = this._clock.now();
    }
    if (this._signedIn) this._setLink(Link.ONLINE);
  }

  _streamEnded(frame) {
    const { events, push, missing } = this.streams.end(frame);
    const settled = this.questions.streamEnded(frame.sid);
    if (push !== null) this._push(push);
    if (missing && this.feeds.known(frame.conv) < frame.rev) this._fetch(frame);
    this._emit([...settled, ...events]);
  }

  /** Get a message whose end did not suffice; its revision counts once the row is here. */
  _fetch({ conv, rev, seq }) {
    const rid = this._pending.expect((outcome) => {
      if (outcome instanceof Disconnected) return; // the next hello asks for it
      const found = outcome.msgs?.some((msg) => msg.seq === seq && msg.rev >= rev);
      if (found) this._push({ t: 'skip', feed: conv, rev });
      else this.feeds.wantSync();
    });
    this._write({ t: 'get', rid, conv, seqs: [seq] });
  }

  // timers: one for whatever is due first

  _nextSync(now) {
    return now + this._timing.syncEvery * (0.8 + 0.4 * this._random());
  }

  /** Send what may be sent now and set the timer for the rest. */
  _pump() {
    if (this._conn === null || !this._signedIn) return;
    const now = this._clock.now();
    if (this.link === Link.ONLINE) {
      for (const entry of this._outbox.ready(now)) this._writeUnsent(entry);
    }
    this._writeAsks(now);
    const wanted = this.streams.wanted;
    this.streams.wanted = [];
    for (const one of wanted) this._writeOpen(one);
    if (this.feeds.due() <= now && this._syncNotBefore <= now) this._writeSync();
    this._arm();
  }

  _arm() {
    if (this._pulse === null) return;
    const asks = this._flying < IN_FLIGHT_MAX ? this._asks : [];
    const due = Math.min(
      this._pulse.due,
      this._syncAt,
      Math.max(this.feeds.due(), this._syncNotBefore),
      this.link === Link.ONLINE ? this._outbox.due() : Infinity,
      this._marksDue,
      this._leaveAt,
      ...asks.map((ask) => ask.notBefore),
    );
    if (this._timer !== null) {
      if (this._timer.due <= due) return;
      this._clock.clear(this._timer.handle);
    }
    const delay = Math.max(0, due - this._clock.now());
    this._timer = { due, handle: this._clock.set(() => this._rung(due), delay) };
  }

  _rung(due) {
    this._timer = null;
    const now = this._clock.now();
    // A pong that was due while the machine slept says nothing about the connection.
    if (now - due > this._timing.asleep) this._pulse?.doubt(now);
    this._tick();
  }

  _tick() {
    const now = this._clock.now();
    if (!this._beat(now)) return;
    if (now >= this._syncAt) {
      this._syncAt = this._nextSync(now);
      this.feeds.wantSync();
    }
    if (now >= this._marksDue) this._writeMarks();
    this._pump();
  }

  /** Ping if it is time; false when the connection is dead. */
  _beat(now) {
    if (this._conn === null || this._pulse === null) return false;
    const pulse = this._pulse.check(now);
    if (pulse === DEAD) {
      this._conn.abort('the server does not answer');
      return false;
    }
    if (pulse === PING) this._conn.send({ t: 'ping', n: this.connects });
    if (now >= this._leaveAt) this._leave(now);
    return this._conn !== null;
  }

  // writing

  _write(frame) {
    if (this._conn === null) return;
    this._conn.send(frame);
    this._pulse?.sent(this._clock.now());
  }

  _writeSync() {
    const q = this.feeds.beginSync(this.streams.positions());
    const rid = this._pending.expect((outcome) => {
      if (!(outcome instanceof Disconnected)) this._syncAnswered(outcome);
    });
    this._write({ t: 'sync', rid, q });
  }

  /** What is watched was changed after the hello had left. */
  _writeWatch() {
    this._write({ t: 'watch', rid: this._pending.expect(() => {}), w: this._watch });
  }

  _writeMarks() {
    const marks = this._marks;
    this._marks = new Map();
    this._marksDue = Infinity;
    for (const [conv, read] of marks) {
      this._marked.set(conv, read);
      this._write({ t: 'mark', conv, read, recv: read });
    }
  }

  _writeOpen(wanted) {
    const rid = this._pending.expect((outcome) => {
      // The reply itself is taken by its handler.
      if (outcome instanceof Error) this.streams.openFailed(wanted);
    });
    this._write({ t: 'open', rid, ...wanted });
  }

  _writeUnsent(entry) {
    const { conv, cid, kind, text, x } = entry.unsent;
    const rid = this._pending.expect((outcome) => this._sendAnswered(entry, outcome));
    const frame = { t: 'send', rid, conv, cid, kind, text, x };
    try {
      if (this._isTooLarge(frame)) throw new ProtocolError(Code.TOO_LARGE, 'too large for this server');
      this._write(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this._pending.forget(rid);
      const code = error.code === Code.TOO_LARGE ? Code.SIZE_LIMIT : Code.INVALID;
      this._refused(entry, new ServerError(code, error.reason, -1, 'Send it in several parts.'));
    }
  }

  /** The server would end the connection, this time and each time after. */
  _isTooLarge(frame) {
    const most = this.limits.frame || Infinity;
    if (frame.text.length * UNIT_BYTES + REST_BYTES <= most) return false;
    return encode(frame.t, frame).length - HEADER_BYTES > most;
  }

  _sendAnswered(entry, outcome) {
    if (outcome instanceof Disconnected) return;
    if (outcome instanceof ServerError) {
      // An answer that cannot be had now (6xx) is the user's to ask for again.
      if (outcome.retry >= 0 && outcome.code < Code.MODEL_UNAVAILABLE) {
        this._outbox.putOff(entry, outcome.retry, this._clock.now());
      } else {
        this._refused(entry, outcome);
      }
      return;
    }
    this._outbox.settled(entry, outcome);
    this._changed();
    const { cid, kind, text, x } = entry.unsent;
    const { conv, seq, rev, ts, dup, sid } = outcome;
    if (!dup) {
      const row = { seq, rev, ts, sender: this.user, kind, text, x: storedX(x, cid) };
      this._push({ t: 'msg', conv, ...row });
    }
    this._emit([{ type: 'sendDone', conv, cid, seq, sid: sid ?? 0 }]);
  }

  _refused(entry, error) {
    const { conv, cid, text, x } = entry.unsent;
    this._outbox.refused(entry, error);
    this._changed();
    const { code, reason, detail } = error;
    this._emit([{ type: 'sendFailed', conv, cid, text, x, code, reason, detail }]);
  }

  // keeping

  _saved() {
    return { device: this.device, unsent: this._outbox.entries().map((entry) => entry.unsent) };
  }

  /** The outbox changed: save it, and let what is saved go. */
  _changed() {
    if (!this._state.durable) return;
    this._dirty = true;
    this._saving ??= this._saveAll();
  }

  async _saveAll() {
    while (this._dirty) {
      this._dirty = false;
      const entries = this._outbox.entries();
      try {
        await this._state.save(this._saved());
      } catch (error) {
        // A full disk must not keep people from talking.
        this._emit([{ type: 'stateUnsaved', reason: error.message }]);
      }
      for (const entry of entries) entry.saved = true;
      this._pump();
    }
    this._saving = null;
  }
}

/** Where a browser says that somebody or the network is back, or gone: [target, names]. */
function wakeSources() {
  const { document } = globalThis;
  if (document === undefined) return [];
  return [
    [globalThis, ['online', 'offline', 'pageshow']],
    [document, ['visibilitychange']],
  ];
}

/** What the server stores of the options of a `send`. */
function storedX(x, cid) {
  if (x === null) return { cid };
  const { quote, fwd_conv, fwd_seq, mentions, fmt, meta } = x;
  return { cid, quote, fwd_conv, fwd_seq, mentions, fmt, meta };
}

const item = (client, frame) => client._push(frame);

/** What each message of the server does. */
const HANDLERS = {
  welcome: (client, frame) => client._welcomed(frame),
  bye: (client, frame) => client._byeReceived(frame),
  goaway: (client, frame) => client._goAway(frame),
  synced: (client, frame) => frame.rid || client._syncAnswered(frame),
  resync: (client) => client.feeds.wantSync(),
  msg: item,
  conv: item,
  member: item,
  my_conv: item,
  persona: item,
  profile: item,
  device: item,
  skip: item,
  page: (client, frame) => client._take(client.feeds.addMessages(frame.conv, frame.msgs)),
  conv_info: (client, frame) => client._take(client.feeds.addInfo(frame, client._clock.now())),
  conv_page: (client, frame) => client._take(client.feeds.addList(frame, client._clock.now())),
  opened: (client, frame) => client._emit(client.streams.opened(frame)),
  s_start: (client, frame) => client._emit(client.streams.start(frame)),
  s_queued: (client, frame) => client._emit(client.streams.queued(frame)),
  s_delta: (client, frame) => client._emit(client.streams.delta(frame)),
  s_end: (client, frame) => client._streamEnded(frame),
  tool_ask: (client, frame) => client._emit(client.questions.asked(frame)),
  tool_settled: (client, frame) => client._emit(client.questions.settled(frame)),
  watching(client, frame) {
    if (frame.pres.length > 0) client._emit([{ type: 'presenceSeen', items: frame.pres }]);
    client._emit(client.streams.join(frame.streams));
  },
  typing_at: (client, { conv, user, state }) =>
    client._emit([{ type: 'typingSeen', conv, user, state }]),
  presence: (client, { items }) => client._emit([{ type: 'presenceSeen', items }]),
  receipt: (client, frame) => client._emit(client.feeds.addReceipt(frame)),
  notice(client, { kind, text, expires }) {
    if (kind === NoticeKind.AUTH_EXPIRING) client._renewToken();
    client._emit([{ type: 'noticeSeen', kind, text, expires: expires ?? 0 }]);
  },
};
