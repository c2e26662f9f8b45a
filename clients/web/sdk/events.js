// What a client tells its user, in the order in which it became true, and what can go wrong.
// An event is a plain object whose `type` is its name; events.d.ts lists them all.

import { Code } from './messages.js';

/** States of the connection, see `linkChanged`. */
export const Link = Object.freeze({
  CONNECTING: 'connecting',
  CATCHING_UP: 'catching up',
  ONLINE: 'online',
  OFFLINE: 'offline',
  STOPPED: 'stopped',
});

export const EVENTS_MAX = 10_000;

/** Base of all errors of the SDK. */
export class ClientError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** The server refused a request. `retry`: -1 never, 0 now, n after n ms. */
export class ServerError extends ClientError {
  constructor(code, reason, retry = -1, detail = '') {
    super(`${reason} (${code})`);
    this.code = code;
    this.reason = reason;
    this.retry = retry;
    /** What a person may do about it, in plain words; may be empty. */
    this.detail = detail || '';
  }

  /** True when the request may have taken effect; repeating it is safe. */
  get outcomeUnknown() {
    return this.code >= 500 && this.code < 600;
  }
}

/** The connection went away before an answer came: the outcome is unknown. */
export class Disconnected extends ClientError {}

/** No answer within the time given: the outcome is unknown. */
export class RequestTimeout extends ClientError {}

/** The client has given up and will not reconnect by itself. `code`: of the server's `bye`, or 0. */
export class Stopped extends ClientError {
  constructor(reason, code = 0) {
    super(reason);
    this.reason = reason;
    this.code = code;
  }
}

/**
 * The account service refused: wrong password, taken name, expired refresh token. `tag` is its word
 * for why, such as "name taken"; `reason` says it to people.
 */
export class SignInFailed extends ClientError {
  constructor(reason, code = Code.BAD_CREDENTIALS, tag = '') {
    super(reason);
    this.reason = reason;
    this.code = code;
    this.tag = tag;
  }
}

/**
 * The server cannot be reached (`code` 0), or asks to come back later (`code` says why): try again.
 */
export class Unreachable extends ClientError {
  constructor(message, code = 0) {
    super(message);
    this.code = code;
  }
}

/** Too many messages wait for the server; this one was not taken. */
export class OutboxFull extends ClientError {}

/** The text can never be accepted. */
export class InvalidText extends ClientError {}

/** The address is not one that this client can connect to. */
export class AddressError extends ClientError {}

/** Another running client uses this state: two clients cannot share one device id. */
export class StateInUse extends ClientError {}

/**
 * An endless asynchronous iterator over events from the moment it was made.
 *
 * Holds at most `limit` events. A reader who falls further behind loses them all and gets one
 * `lagged` in their place: what counts is in the views. Ends when the client is closed.
 */
export class Subscription {
  constructor(leave, limit = EVENTS_MAX) {
    this._leave = leave;
    this._limit = limit;
    this._events = [];
    this._dropped = 0;
    this._closed = false;
    this._waiting = [];
  }

  /** Append events; called by the client only. */
  put(events) {
    this._events.push(...events);
    if (this._events.length > this._limit) {
      this._dropped += this._events.length;
      this._events = [];
    }
    this._serve();
  }

  /** End the iteration after what is held; repeated calls do nothing. */
  close() {
    if (this._closed) return;
    this._closed = true;
    this._leave(this);
    this._serve();
  }

  next() {
    return new Promise((resolve) => {
      this._waiting.push(resolve);
      this._serve();
    });
  }

  /** Called when a `for await` is left early. */
  async return() {
    this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  _serve() {
    let at = 0;
    while (this._waiting.length > 0) {
      let found;
      if (this._dropped > 0) {
        found = { value: { type: 'lagged', dropped: this._dropped }, done: false };
        this._dropped = 0;
      } else if (at < this._events.length) {
        found = { value: this._events[at++], done: false };
      } else if (this._closed) {
        found = { value: undefined, done: true };
      } else {
        break;
      }
      this._waiting.shift()(found);
    }
    if (at > 0) this._events.splice(0, at);
  }
}

/** Hands events to listeners and subscriptions. A listener that throws hurts nobody else. */
export class Emitter {
  constructor() {
    this._listeners = new Map();
    this._subscriptions = new Set();
  }

  /** Call `listener` with every event of a type; '*' is every type. Repeats do nothing. */
  addEventListener(type, listener) {
    if (!this._listeners.has(type)) this._listeners.set(type, new Set());
    this._listeners.get(type).add(listener);
  }

  /** Stop calling it. */
  removeEventListener(type, listener) {
    this._listeners.get(type)?.delete(listener);
  }

  subscribe(limit) {
    const subscription = new Subscription((one) => this._subscriptions.delete(one), limit);
    this._subscriptions.add(subscription);
    return subscription;
  }

  closeSubscriptions() {
    for (const subscription of [...this._subscriptions]) subscription.close();
  }

  emit(events) {
    if (events.length === 0) return;
    for (const subscription of this._subscriptions) subscription.put(events);
    for (const event of events) {
      for (const type of [event.type, '*']) {
        for (const listener of [...(this._listeners.get(type) ?? [])]) {
          try {
            listener(event);
          } catch (error) {
            console.error('parlance: a listener failed', error);
          }
        }
      }
    }
  }
}
