import type { Msg, Persona, Pres, SendX, User } from "./messages.js";

export declare const Link: {
  readonly CONNECTING: "connecting";
  /** From the sign-in until everything that was missed is there. */
  readonly CATCHING_UP: "catching up";
  readonly ONLINE: "online";
  /** Until the next attempt. */
  readonly OFFLINE: "offline";
  /** For good; the reason says what to do. */
  readonly STOPPED: "stopped";
};
export type Link = (typeof Link)[keyof typeof Link];

/** What a client tells its user, by `type`. */
export interface Events {
  /** `retry`: ms until the next attempt, when offline; `code`: of the server's `bye`, or 0. */
  linkChanged: { type: "linkChanged"; link: Link; retry: number; reason: string; code: number };
  /** A message that was not known before, new or from older pages. */
  messageAdded: { type: "messageAdded"; conv: number; msg: Msg };
  /** A known message was edited, recalled or completed. */
  messageChanged: { type: "messageChanged"; conv: number; msg: Msg };
  /** A conversation's row, members or own view changed; read it from the view. */
  convChanged: { type: "convChanged"; conv: number };
  /** Too much was missed: the messages held before were dropped, newer ones follow. */
  convReset: { type: "convReset"; conv: number };
  /** The user is not in the conversation any more. */
  convGone: { type: "convGone"; conv: number };
  /** The server's store was replaced by another: everything held was dropped. */
  forgotten: { type: "forgotten" };
  personaChanged: { type: "personaChanged"; persona: Persona };
  profileChanged: { type: "profileChanged"; user: User };
  /** The list of the user's own devices changed. */
  devicesChanged: { type: "devicesChanged" };
  /** Somebody in the conversation has read more. */
  readSeen: { type: "readSeen"; conv: number };
  /** An answer is being made; `ask` is the seq of the question, 0 when unknown. */
  streamStarted: { type: "streamStarted"; sid: number; conv: number; persona: number; ask: number };
  /** The answer grew by `text`, which begins at byte `off` of `part` (`StreamPart`). */
  streamText: {
    type: "streamText";
    sid: number;
    conv: number;
    part: number;
    off: number;
    text: string;
  };
  /** A waiting answer has another place in the queue: 1 is next, 0 when it waits no more. */
  streamMoved: { type: "streamMoved"; sid: number; conv: number; place: number };
  /**
   * The answer is over. `seq`: its message, 0 when nothing was stored; `reason`: `EndReason`, null
   * when the end was missed; `detail`: what a person may do about an error; `text`: as far as it
   * had arrived, empty when it was taken back (FILTERED with seq 0): remove what was shown.
   */
  streamEnded: {
    type: "streamEnded";
    sid: number;
    conv: number;
    seq: number;
    reason: number | null;
    code: number;
    detail: string;
    text: string;
  };
  /**
   * A tool wants to run for an answer of the user's own: say so with `Client.confirm`. `name` and
   * `args` are text of a model, not to be trusted; `left` characters of `args` are not shown;
   * after `until`, Unix milliseconds, it is too late.
   */
  toolAsked: {
    type: "toolAsked";
    sid: number;
    conv: number;
    call: number;
    name: string;
    args: string;
    left: number;
    until: number;
  };
  /** A question needs no answer any more; `outcome`: `Settled`, null when it is not known. */
  toolSettled: {
    type: "toolSettled";
    sid: number;
    call: number;
    name: string;
    outcome: number | null;
  };
  typingSeen: { type: "typingSeen"; conv: number; user: number; state: number };
  presenceSeen: { type: "presenceSeen"; items: Pres[] };
  /** A message is in the outbox and will be sent until it is acknowledged or refused. */
  sendQueued: { type: "sendQueued"; conv: number; cid: Uint8Array; text: string };
  sendDone: { type: "sendDone"; conv: number; cid: Uint8Array; seq: number; sid: number };
  /** The server refused the message for good; it is out of the outbox, but here to be changed. */
  sendFailed: {
    type: "sendFailed";
    conv: number;
    cid: Uint8Array;
    text: string;
    x: SendX | null;
    code: number;
    reason: string;
    detail: string;
  };
  /** `kind`: `NoticeKind`; `expires`: Unix milliseconds, or 0. */
  noticeSeen: { type: "noticeSeen"; kind: number; text: string; expires: number };
  /** The outbox could not be saved; its messages are sent all the same. */
  stateUnsaved: { type: "stateUnsaved"; reason: string };
  /** The reader of an iterator was too slow and `dropped` events are gone: read the views again. */
  lagged: { type: "lagged"; dropped: number };
}

export type Event = Events[keyof Events];
export type Listener<E = Event> = (event: E) => void;

export declare const EVENTS_MAX: 10000;

/** Base of all errors of the SDK. */
export declare class ClientError extends Error {}

/** The server refused a request. */
export declare class ServerError extends ClientError {
  constructor(code: number, reason: string, retry?: number, detail?: string | null);
  /** Of `Code`, or a newer one. */
  readonly code: number;
  readonly reason: string;
  /** -1 never, 0 now, n after n ms. */
  readonly retry: number;
  /** What a person may do about it, in plain words; may be empty. */
  readonly detail: string;
  /** True when the request may have taken effect; repeating it is safe. */
  get outcomeUnknown(): boolean;
}

/** The connection went away before an answer came: the outcome is unknown. */
export declare class Disconnected extends ClientError {}
/** No answer within the time given: the outcome is unknown. */
export declare class RequestTimeout extends ClientError {}

/** The client has given up and will not reconnect by itself. */
export declare class Stopped extends ClientError {
  constructor(reason: string, code?: number);
  readonly reason: string;
  readonly code: number;
}

/** The account service refused: wrong password, taken name, expired refresh token. */
export declare class SignInFailed extends ClientError {
  constructor(reason: string, code?: number, tag?: string);
  readonly reason: string;
  readonly code: number;
  /** The service's word for why, such as "name taken"; may be empty. */
  readonly tag: string;
}

/** The server cannot be reached (code 0), or asks to come back later: try again. */
export declare class Unreachable extends ClientError {
  constructor(message: string, code?: number);
  readonly code: number;
}
/** Too many messages wait for the server; this one was not taken. */
export declare class OutboxFull extends ClientError {}
/** The text can never be accepted. */
export declare class InvalidText extends ClientError {}
/** The address is not one that this client can connect to. */
export declare class AddressError extends ClientError {}
/** Another running client uses this state: two clients cannot share one device id. */
export declare class StateInUse extends ClientError {}

/** An endless iterator over events from the moment it was made; `break` or `close` ends it. */
export declare class Subscription implements AsyncIterableIterator<Event> {
  constructor(leave: (subscription: Subscription) => void, limit?: number);
  put(events: Event[]): void;
  close(): void;
  next(): Promise<IteratorResult<Event>>;
  return(): Promise<IteratorResult<Event>>;
  [Symbol.asyncIterator](): this;
}

/** Hands events to listeners and subscriptions. */
export declare class Emitter {
  addEventListener<N extends keyof Events>(type: N, listener: Listener<Events[N]>): void;
  addEventListener(type: "*", listener: Listener): void;
  removeEventListener<N extends keyof Events>(type: N, listener: Listener<Events[N]>): void;
  removeEventListener(type: "*", listener: Listener): void;
  subscribe(limit?: number): Subscription;
  closeSubscriptions(): void;
  emit(events: Event[]): void;
}
