/**
 * Frames (docs/protocol.md §1): one big-endian 32-bit word, its top 8 bits flags and its low 24
 * bits the length of the payload, then the payload. The same bytes on TCP and on WebSocket.
 */

export const HEADER_BYTES = 4;
export const MAX_LENGTH = 0xffffff;

/** What a TCP client sends first; a WebSocket client sends nothing. */
export const PREFACE = Uint8Array.of(0x8b, 0x50, 0x57, 0x50, 0x0d, 0x0a, 0x01, 0x00);

/** The subprotocols of `GET /ws`. */
export const SUBPROTOCOLS = Object.freeze({ msgpack: "pwp1.msgpack", json: "pwp1.json" });

/** A connection closes with this plus the code of its `bye`. */
export const WEBSOCKET_CLOSE_BASE = 4000;

const EMPTY = new Uint8Array(0);

/** The peer broke a rule of the protocol, or this side was about to. */
export class ProtocolError extends Error {
  /**
   * @param {number} code as in `err` and `bye`: 100 framing, 101 malformed, 102 unknown message,
   *   103 too large
   * @param {string} reason constant text for logs; never quotes what was sent
   * @param {number} rid the request the broken message names, 0 when there is none to be found
   * @param {boolean} closes whether the connection cannot go on
   */
  constructor(code, reason, { rid = 0, closes = false } = {}) {
    super(reason);
    this.name = "ProtocolError";
    this.code = code;
    this.reason = reason;
    this.rid = rid;
    this.closes = closes;
  }
}

/** Write the header of a frame into its first four bytes. */
export function setHeader(frame) {
  const length = frame.length - HEADER_BYTES;
  if (length < 1 || length > MAX_LENGTH) {
    throw new ProtocolError(103, "a frame holds 1 to 16777215 bytes");
  }
  frame[0] = 0;
  frame[1] = length >>> 16;
  frame[2] = length >>> 8;
  frame[3] = length;
  return frame;
}

/** Return payload with its header in front. */
export function joinFrame(payload) {
  const frame = new Uint8Array(HEADER_BYTES + payload.length);
  frame.set(payload, HEADER_BYTES);
  return setHeader(frame);
}

/**
 * Cuts the payloads out of one connection's byte stream.
 *
 * Holds at most one unfinished frame, in a buffer that grows with what has arrived and not with
 * what a header claims. A broken stream sets `error` instead of throwing, so that the whole frames
 * before it are not lost: handle what `feed` returned, then look at `error`. After that it is dead.
 */
export class FrameDecoder {
  #held = EMPTY;
  #size = 0;

  constructor(maxPayloadBytes) {
    this.maxPayloadBytes = maxPayloadBytes;
    this.error = null;
  }

  /** Bytes of an unfinished frame that are being held. */
  get bufferedBytes() {
    return this.#size;
  }

  /**
   * Return the payloads that data completes, in the order of the wire. They may be views of data:
   * whoever reuses its memory decodes them first.
   */
  feed(data) {
    const payloads = [];
    let at = 0;
    while (at < data.length && this.error === null) {
      at = this.#size > 0 ? this.#continue(data, at, payloads) : this.#cut(data, at, payloads);
    }
    return payloads;
  }

  /** Cut whole frames straight out of data; hold what is left. */
  #cut(data, at, payloads) {
    while (data.length - at >= HEADER_BYTES) {
      const length = this.#length(data, at);
      if (length === 0) return data.length;
      const end = at + HEADER_BYTES + length;
      if (end > data.length) break;
      payloads.push(data.subarray(at + HEADER_BYTES, end));
      at = end;
    }
    if (at < data.length) this.#hold(data, at, data.length);
    return data.length;
  }

  /** Add to the frame that is held, first its header, then its payload. */
  #continue(data, at, payloads) {
    if (this.#size < HEADER_BYTES) {
      const to = Math.min(data.length, at + HEADER_BYTES - this.#size);
      this.#hold(data, at, to);
      if (this.#size === HEADER_BYTES && this.#length(this.#held, 0) === 0) this.#drop();
      return to;
    }
    const end = HEADER_BYTES + this.#length(this.#held, 0);
    const to = Math.min(data.length, at + end - this.#size);
    this.#hold(data, at, to);
    if (this.#size === end) {
      payloads.push(this.#held.subarray(HEADER_BYTES, end));
      this.#drop();
    }
    return to;
  }

  #hold(data, from, to) {
    const size = this.#size + to - from;
    if (size > this.#held.length) {
      const larger = new Uint8Array(Math.max(64, size, 2 * this.#held.length));
      larger.set(this.#held.subarray(0, this.#size));
      this.#held = larger;
    }
    this.#held.set(data.subarray(from, to), this.#size);
    this.#size = size;
  }

  #drop() {
    this.#held = EMPTY;
    this.#size = 0;
  }

  /** Return the length that a header tells; 0 sets `error`. */
  #length(bytes, at) {
    const length = (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    if (bytes[at] !== 0) this.error = new ProtocolError(100, "reserved flags", { closes: true });
    else if (length === 0) this.error = new ProtocolError(100, "empty frame", { closes: true });
    else if (length > this.maxPayloadBytes) {
      this.error = new ProtocolError(103, "frame too large", { closes: true });
    } else return length;
    return 0;
  }
}

/**
 * Return the payloads of one binary WebSocket message, which holds one or more whole frames.
 *
 * @throws {ProtocolError} 100 or 103; a frame that is not whole is 100
 */
export function cutMessage(data, maxPayloadBytes) {
  const decoder = new FrameDecoder(maxPayloadBytes);
  const payloads = decoder.feed(data);
  if (decoder.error !== null) throw decoder.error;
  if (decoder.bufferedBytes > 0) {
    throw new ProtocolError(100, "message ends inside a frame", { closes: true });
  }
  return payloads;
}
