import type { Event } from "./events.js";
import type {
  Conv,
  ConvInfoMessage,
  ConvPageMessage,
  ConvPushMessage,
  Device,
  DevicePushMessage,
  Member,
  MemberPushMessage,
  Msg,
  MsgPushMessage,
  MyConv,
  MyConvPushMessage,
  Persona,
  PersonaPushMessage,
  ProfilePushMessage,
  ReceiptMessage,
  SkipMessage,
  StreamPos,
  Sync,
  SyncedMessage,
  User,
} from "./messages.js";

export declare const HELD_MAX: 64;
export declare const HOLD_MS: 500;
export declare const HEADS_MAX: 1000;
export declare const BUDGET_BYTES: 262144;
export declare const UNKNOWN: -1;
export declare const ME: 0;

export type FeedItem =
  | MsgPushMessage
  | ConvPushMessage
  | MemberPushMessage
  | SkipMessage
  | MyConvPushMessage
  | PersonaPushMessage
  | ProfilePushMessage
  | DevicePushMessage;

/** A row and the revision that last changed it. */
export interface Stamped<T> {
  rev: number;
  row: T;
}

/** One conversation as far as it is loaded. Read it freely; only `Feeds` writes to it. */
export declare class ConvView {
  constructor(conv: number);
  readonly conv: number;
  /** By seq. */
  readonly messages: ReadonlyMap<number, Msg>;
  /** Of the messages held, ascending; older ones are loaded by pages of history. */
  readonly seqs: readonly number[];
  /** The conversation, and the user's own view of it; sparse until loaded. */
  readonly row: Conv;
  readonly my: MyConv;
  /** Those who are in or were, by user. */
  readonly members: ReadonlyMap<number, Stamped<Member>>;
  /** False while the members from before the feed began are not loaded (`getConversation`). */
  readonly membersWhole: boolean;
  /** Messages up to this one were there before the feed began here. */
  readonly begunSeq: number;
  /** Highest known read cursors by user. */
  readonly reads: ReadonlyMap<number, { read: number; recv: number }>;
  get left(): boolean;
  get roleGone(): boolean;
  /** Highest seq known to exist. */
  get lastSeq(): number;
  /** Time of the last activity known, Unix milliseconds. */
  get updated(): number;
  /** Up to where the user has read, here or elsewhere; own messages count as read. */
  get read(): number;
  /** Messages that the user has read nowhere yet. */
  get unread(): number;
  /** The messages held, ascending. */
  list(): Msg[];
  /** The lowest seq from which nothing is missing up to the newest; 0 when that is not held. */
  wholeFrom(): number;
  /** The members who are in, in the order of their ids. */
  present(): Member[];
}

/** All feeds of one signed-in user and the rows that they keep true. */
export declare class Feeds {
  readonly convs: ReadonlyMap<number, ConvView>;
  readonly personas: ReadonlyMap<number, Stamped<Persona>>;
  /** By hexadecimal id. */
  readonly devices: ReadonlyMap<string, Stamped<Device>>;
  readonly profile: Stamped<User> | null;
  /** Which store the revisions belong to; 0 before the first sync. */
  readonly epoch: number;
  user: number;
  /** The last revision of a feed applied without a hole; -1 when unknown. */
  known(feed: number): number;
  get syncing(): boolean;
  due(): number;
  wantSync(): void;
  beginSync(streams?: StreamPos[], budget?: number): Sync;
  abandonSync(): void;
  finishSync(synced: SyncedMessage, now: number): Event[];
  push(item: FeedItem, now: number): Event[];
  addMessages(conv: number, msgs: Msg[]): Event[];
  addInfo(info: ConvInfoMessage, now: number): Event[];
  addList(page: ConvPageMessage, now: number): Event[];
  addReceipt(receipt: ReceiptMessage): Event[];
  /** Let go of all but the newest `keep` messages of a conversation; `history` brings them back. */
  trim(conv: number, keep: number): void;
  /**
   * Let go of all messages but those from seq `from` to `to` and the newest `newest`: for who
   * shows a place far back. `history` brings the others back.
   */
  retain(conv: number, from: number, to: number, newest: number): void;
}
