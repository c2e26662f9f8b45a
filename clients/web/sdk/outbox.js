// Messages on their way to the server, until it has acknowledged them. No I/O.

import { InvalidText, OutboxFull } from './events.js';

export const UNSENT_MAX = 1000;
export const TEXT_MAX = 32_000;

// Control characters but tab and newline, and halves of surrogate pairs (docs/protocol.md §15).
const REFUSED = /[\x00-\x08\x0b-\x1f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/** Return text as the server will store it, so that the view equals the store. */
export function cleanText(text) {
  const clean = text.replaceAll('\r\n', '\n').normalize('NFC');
  if (REFUSED.test(clean)) throw new InvalidText('remove control characters from the text');
  if (clean.length > TEXT_MAX && [...clean].length > TEXT_MAX) {
    throw new InvalidText(`shorten the text to ${TEXT_MAX} characters`);
  }
  return clean;
}

/** Return a fresh UUIDv7 (RFC 9562 §5.7) as 16 bytes: ordered by time, unique everywhere. */
export function makeCid(now = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, Math.floor(now / 2 ** 16));
  view.setUint16(4, now % 2 ** 16);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return bytes;
}

/** Bytes as a hexadecimal text, to compare cids and device ids. */
export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The reverse of `toHex`. */
export function fromHex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** A message handed to the client, to be followed until the server has it. */
export class Outgoing {
  /**
   * unsent: {conv, cid, kind, text, x, created}; the cid is kept for ever.
   * saved: it may be sent; false until a durable state holds it.
   */
  constructor(unsent, saved) {
    this.unsent = unsent;
    this.saved = saved;
    this.inFlight = false;
    this.tries = 0;
    this.notBefore = 0;
    /** Resolves with `sent`, or rejects with ServerError when refused for good. */
    this.acknowledged = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Whoever awaits it gets the error; nobody has to.
    this.acknowledged.catch(() => {});
  }
}

/**
 * Unsent messages per conversation, in the order in which they were handed over.
 *
 * One message of a conversation is on the wire at a time, so that no retry can overtake another.
 * What `ready` returned stays in flight until it is settled, refused or put off.
 */
export class Outbox {
  constructor(timing, random) {
    this._timing = timing;
    this._random = random;
    this._queues = new Map();
    this._count = 0;
  }

  get size() {
    return this._count;
  }

  /** Everything unsent, oldest first per conversation. */
  entries() {
    return [...this._queues.values()].flat();
  }

  /** What is unsent in one conversation. */
  of(conv) {
    return [...(this._queues.get(conv) ?? [])];
  }

  /** Append a message; throws OutboxFull when `UNSENT_MAX` wait already. */
  add(entry) {
    if (this._count >= UNSENT_MAX) {
      throw new OutboxFull('too many unsent messages: wait until the server is back');
    }
    const { conv } = entry.unsent;
    if (!this._queues.has(conv)) this._queues.set(conv, []);
    this._queues.get(conv).push(entry);
    this._count += 1;
  }

  /** The messages to send now, at most one per conversation, as in flight. */
  ready(now) {
    const ready = [];
    for (const [first] of this._queues.values()) {
      if (!first.inFlight && first.saved && first.notBefore <= now) {
        first.inFlight = true;
        ready.push(first);
      }
    }
    return ready;
  }

  /** When `ready` has something again because a wait ends; Infinity for never. */
  due() {
    let due = Infinity;
    for (const [first] of this._queues.values()) {
      if (first.saved && !first.inFlight) due = Math.min(due, first.notBefore);
    }
    return due;
  }

  /** The server has it. */
  settled(entry, sent) {
    this._remove(entry);
    entry.resolve(sent);
  }

  /** The server will never take it. */
  refused(entry, error) {
    this._remove(entry);
    entry.reject(error);
  }

  /** Try again later, at the earliest after `retry` ms. */
  putOff(entry, retry, now) {
    const { sendRetry, sendRetryMax } = this._timing;
    const ceiling = Math.min(sendRetryMax, sendRetry * 2 ** Math.min(entry.tries, 20));
    entry.tries += 1;
    entry.inFlight = false;
    entry.notBefore = now + Math.max(0, retry) + this._random() * ceiling;
  }

  /** Nothing is in flight any more; everything is sent again on the next connection. */
  connectionLost() {
    for (const [first] of this._queues.values()) {
      first.inFlight = false;
      first.notBefore = 0;
    }
  }

  /** The client stops: wake whoever waits. The messages stay for the next start. */
  failAll(error) {
    for (const entry of this.entries()) entry.reject(error);
  }

  _remove(entry) {
    const { conv } = entry.unsent;
    const queue = this._queues.get(conv) ?? [];
    const at = queue.indexOf(entry);
    if (at < 0) return;
    queue.splice(at, 1);
    this._count -= 1;
    if (queue.length === 0) this._queues.delete(conv);
  }
}
