import { Calls } from "./calls.js";
import type { Address, ConnectOptions, Connection, Receiver } from "./connection.js";
import type { Event, Events, Link, Listener, Subscription } from "./events.js";
import type { Feeds } from "./feeds.js";
import type { Limits, SendX, SentMessage, ServerMessage, WatchingMessage } from "./messages.js";
import type { Outgoing } from "./outbox.js";
import type { State } from "./storage.js";
import type { Questions, Streams } from "./streams.js";
import type { Clock, Timing } from "./timing.js";

export { Account } from "./auth.js";
export * from "./events.js";
export * from "./storage.js";
export { cleanText, makeCid, toHex } from "./outbox.js";
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
} from "./messages.js";

export declare const IN_FLIGHT_MAX: 24;
export declare const REQUESTS_MAX: 1000;

/** Returns a token, and a new one when `renew` says that the last is no good any more. */
export type TokenSource = (renew: boolean) => Promise<string>;

export interface ClientOptions {
  /** Keeps the device id and the outbox; in memory by default. */
  state?: State;
  /** Shown in the user's list of devices, as "name/platform". */
  agent?: string;
  /** Language of texts for people, such as "en" or "zh-CN"; that of the browser by default. */
  lang?: string;
  /** The user can be asked whether a tool may run (event `toolAsked`); otherwise it is no. */
  confirms?: boolean;
  /** The class to use for ws:// addresses; by default the global one. */
  WebSocket?: unknown;
  /** For `tls.connect` of Node, with parlances:// addresses. */
  tls?: object;
  /** The rest is for tests. */
  timing?: Partial<Timing>;
  clock?: Clock;
  random?: () => number;
  open?: (address: Address, receiver: Receiver, options: ConnectOptions) => Promise<Connection>;
}

/** One signed-in user on one device, over whatever connections come and go. */
export declare class Client extends Calls implements Receiver {
  constructor(url: string, token: TokenSource, options?: ClientOptions);
  readonly address: Address;
  /** 16 bytes that name this installation; null before `start`. */
  readonly device: Uint8Array | null;
  readonly feeds: Feeds;
  readonly streams: Streams;
  readonly questions: Questions;
  /** Who is signed in; 0 before the first sign-in. */
  get user(): number;
  readonly tenant: number;
  readonly limits: Limits;
  readonly link: Link;
  /** Sign-ins so far. */
  readonly connects: number;

  /** Begin to connect; messages left unsent by an earlier run go first. Throws `StateInUse`. */
  start(): Promise<void>;
  /** Leave, save what is unsent, and end every subscription. The client cannot start again. */
  close(): Promise<void>;
  /** Resolve when everything that was missed is here; throws `Stopped` or `RequestTimeout`. */
  waitOnline(timeout?: number): Promise<void>;
  /** Do not wait any longer for the next attempt. */
  retryNow(): void;
  /**
   * See at once whether the connection still lives, and what was missed. A page's client does this
   * by itself when the page is shown or restored and when its network comes or goes; one in a worker
   * has to be told.
   */
  wake(): void;

  /** The events from now on, for one reader. */
  events(limit?: number): Subscription;
  addEventListener<N extends keyof Events>(type: N, listener: Listener<Events[N]>): void;
  addEventListener(type: "*", listener: Listener<Event>): void;
  removeEventListener<N extends keyof Events>(type: N, listener: Listener<Events[N]>): void;
  removeEventListener(type: "*", listener: Listener<Event>): void;

  /** Put a message into the outbox; throws `InvalidText`, `OutboxFull` or `Stopped`. */
  post(
    conv: number,
    text: string,
    options?: { kind?: number; x?: SendX | null; cid?: Uint8Array },
  ): Outgoing;
  /** Send a message and resolve once the server has stored it, however long that takes. */
  send(
    conv: number,
    text: string,
    options?: { kind?: number; x?: SendX | null; cid?: Uint8Array },
  ): Promise<SentMessage>;
  /** Messages that the server has not acknowledged, oldest first per conversation. */
  get unsent(): Outgoing[];
  /** Move the read cursor forward; told to the server within a second. */
  mark(conv: number, read: number): void;
  /** Tell the others that the user writes; call it at most once in 4 s. */
  typing(conv: number, state?: number): void;
  /** Follow typing, presence and AI text of these; restored on every connection. */
  watch(convs: Iterable<number>, users?: Iterable<number>): Promise<WatchingMessage | null>;

  framesReceived(frames: ServerMessage[]): void;
  frameRefused(): void;
  connectionLost(reason: string): void;
}
