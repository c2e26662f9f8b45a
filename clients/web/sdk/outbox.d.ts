import type { ServerError } from "./events.js";
import type { SendX, SentMessage } from "./messages.js";
import type { Timing } from "./timing.js";

export declare const UNSENT_MAX: 1000;
export declare const TEXT_MAX: 32000;

/** One message of the outbox as it is kept. */
export interface Unsent {
  conv: number;
  /** 16 bytes, the same for every retry. */
  cid: Uint8Array;
  kind: number;
  text: string;
  x: SendX | null;
  /** Unix milliseconds. */
  created: number;
}

/** Return text as the server will store it; throws `InvalidText`. */
export declare function cleanText(text: string): string;
/** Return a fresh UUIDv7 as 16 bytes. */
export declare function makeCid(now?: number): Uint8Array;
/** Bytes as a hexadecimal text, to compare cids and device ids. */
export declare function toHex(bytes: Uint8Array): string;
/** The reverse of `toHex`. */
export declare function fromHex(text: string): Uint8Array;

/** A message handed to the client, to be followed until the server has it. */
export declare class Outgoing {
  constructor(unsent: Unsent, saved: boolean);
  readonly unsent: Unsent;
  readonly inFlight: boolean;
  readonly tries: number;
  /** Resolves with `sent`, or rejects with `ServerError` when refused for good. */
  readonly acknowledged: Promise<SentMessage>;
}

/** Unsent messages per conversation, in the order in which they were handed over. */
export declare class Outbox {
  constructor(timing: Timing, random: () => number);
  get size(): number;
  entries(): Outgoing[];
  of(conv: number): Outgoing[];
  add(entry: Outgoing): void;
  ready(now: number): Outgoing[];
  due(): number;
  settled(entry: Outgoing, sent: SentMessage): void;
  refused(entry: Outgoing, error: ServerError): void;
  putOff(entry: Outgoing, retry: number, now: number): void;
  connectionLost(): void;
  failAll(error: Error): void;
}
