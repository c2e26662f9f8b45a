/**
 * The part of MessagePack that the protocol uses, read and written field by field.
 *
 * There is no 'decode anything' here: whoever reads says which type must come next and how large
 * it may be, so a hostile frame is refused at its first wrong byte and nothing is allocated for
 * what it claims. Integers outside ±(2^53-1) are refused, never rounded.
 */

/** How deep a value that nobody reads may be nested before the peer must be hostile. */
export const MAX_DEPTH = 500;

const TWO_32 = 0x1_0000_0000;
// Up to here a loop is faster than the call into the engine (measured in Node 20).
const SHORT_TO_READ = 24;
const SHORT_TO_WRITE = 128;

/** The bytes are not what they must be, or the value cannot be written. */
export class MsgpackError extends Error {
  constructor(reason, tooDeep = false) {
    super(reason);
    this.name = "MsgpackError";
    this.tooDeep = tooDeep;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const utf8Encoder = new TextEncoder();

/** Count the bytes of a text in UTF-8, or return -1 if it holds half of a surrogate pair. */
export function utf8Length(text) {
  let bytes = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit < 0x80) continue;
    if (unit < 0x800) bytes += 1;
    else if (unit < 0xd800 || unit > 0xdfff) bytes += 2;
    else {
      const low = text.charCodeAt(++at);
      if (unit > 0xdbff || !(low >= 0xdc00 && low <= 0xdfff)) return -1;
      bytes += 2;
    }
  }
  return bytes;
}

/** Tell whether a well-formed text has more code points than that. */
export function isLongerThan(text, maxCodePoints) {
  let over = text.length - maxCodePoints;
  if (over <= 0) return false;
  if (over > maxCodePoints) return true;
  for (let at = 0; at < text.length && over > 0; at++) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xdc00 && unit <= 0xdfff) over--;
  }
  return over > 0;
}

/** Reads one payload from its beginning to its end. */
export class Reader {
  #bytes;
  #end;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes;
    this.#end = bytes.length;
  }

  /** Whether everything has been read. */
  get done() {
    return this.#at === this.#end;
  }

  /** Read the header of an array; return how many elements it claims. */
  array() {
    const kind = this.#bytes[this.#at++];
    if (kind >= 0x90 && kind <= 0x9f) return kind & 0x0f;
    if (kind === 0xdc) return this.#uint(2);
    if (kind === 0xdd) return this.#uint(4);
    throw new MsgpackError("expected an array");
  }

  /** Read the header of a map; return how many pairs it claims. */
  map() {
    const kind = this.#bytes[this.#at++];
    if (kind >= 0x80 && kind <= 0x8f) return kind & 0x0f;
    if (kind === 0xde) return this.#uint(2);
    if (kind === 0xdf) return this.#uint(4);
    throw new MsgpackError("expected a map");
  }

  /** Read a nil if one comes next. */
  nil() {
    if (this.#bytes[this.#at] !== 0xc0) return false;
    this.#at++;
    return true;
  }

  bool() {
    const kind = this.#bytes[this.#at++];
    if (kind === 0xc3) return true;
    if (kind === 0xc2) return false;
    throw new MsgpackError("expected true or false");
  }

  /** Read an integer of any width. */
  int(min, max) {
    const kind = this.#bytes[this.#at++];
    const value = kind <= 0x7f ? kind : this.#wideInt(kind);
    if (value < min || value > max) throw new MsgpackError("number out of bounds");
    return value;
  }

  /** Read a float of either width, or an integer in its place. */
  float(min, max) {
    const kind = this.#bytes[this.#at];
    let value;
    if (kind === 0xcb || kind === 0xca) {
      const width = kind === 0xcb ? 8 : 4;
      this.#at++;
      const from = this.#take(width);
      const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset + from, width);
      value = width === 8 ? view.getFloat64(0) : view.getFloat32(0);
    } else {
      value = this.int(-Infinity, Infinity);
    }
    // Also false for NaN.
    if (!(value >= min && value <= max)) throw new MsgpackError("number out of bounds");
    return value;
  }

  /** Read a text; what is longer is refused before it is decoded. */
  text(maxCodePoints) {
    const length = this.#textLength();
    const from = this.#take(length);
    if (length > 4 * maxCodePoints) throw new MsgpackError("text too long");
    const text = this.#decode(from, length);
    if (isLongerThan(text, maxCodePoints)) throw new MsgpackError("text too long");
    return text;
  }

  /** Read the name of a field; what no field can be called comes as an empty text. */
  name() {
    const length = this.#textLength();
    const from = this.#take(length);
    return length <= SHORT_TO_READ ? this.#ascii(from, from + length) : "";
  }

  /** Read a binary of exactly that length, as a copy. */
  bytes(length) {
    const kind = this.#bytes[this.#at++];
    let size;
    if (kind === 0xc4) size = this.#uint(1);
    else if (kind === 0xc5) size = this.#uint(2);
    else if (kind === 0xc6) size = this.#uint(4);
    else throw new MsgpackError("expected a binary");
    const from = this.#take(size);
    if (size !== length) throw new MsgpackError(`expected ${length} bytes`);
    // Not `slice`: that of Node's Buffer is a view.
    return new Uint8Array(this.#bytes.subarray(from, from + size));
  }

  /** Step over one value of any kind. */
  skip(depth = 0) {
    if (depth > MAX_DEPTH) throw new MsgpackError("nested too deeply", true);
    this.#take(1);
    const kind = this.#bytes[this.#at - 1];
    if (kind <= 0x7f || kind >= 0xe0) return;
    if (kind <= 0x8f) this.#skipMany((kind & 0x0f) * 2, depth);
    else if (kind <= 0x9f) this.#skipMany(kind & 0x0f, depth);
    else if (kind <= 0xbf) this.#take(kind & 0x1f);
    else this.#skipWide(kind, depth);
  }

  #skipWide(kind, depth) {
    if (kind === 0xc0 || kind === 0xc2 || kind === 0xc3) return;
    if (kind <= 0xc6 && kind >= 0xc4) this.#take(this.#uint(1 << (kind - 0xc4)));
    else if (kind <= 0xc9 && kind >= 0xc7) this.#take(this.#uint(1 << (kind - 0xc7)) + 1);
    else if (kind === 0xca || kind === 0xcb) this.#take(kind === 0xca ? 4 : 8);
    else if (kind >= 0xcc && kind <= 0xcf) this.#take(1 << (kind - 0xcc));
    else if (kind >= 0xd0 && kind <= 0xd3) this.#take(1 << (kind - 0xd0));
    else if (kind >= 0xd4 && kind <= 0xd8) this.#take((1 << (kind - 0xd4)) + 1);
    else if (kind >= 0xd9 && kind <= 0xdb) this.#take(this.#uint(1 << (kind - 0xd9)));
    else if (kind === 0xdc || kind === 0xdd) this.#skipMany(this.#uint(kind === 0xdc ? 2 : 4), depth);
    else if (kind === 0xde || kind === 0xdf) {
      this.#skipMany(this.#uint(kind === 0xde ? 2 : 4) * 2, depth);
    } else throw new MsgpackError("a byte that MessagePack never uses");
  }

  #skipMany(count, depth) {
    for (; count > 0; count--) this.skip(depth + 1);
  }

  /** Move past that many bytes; return where they begin. */
  #take(length) {
    const from = this.#at;
    if (length > this.#end - from) throw new MsgpackError("ends too early");
    this.#at = from + length;
    return from;
  }

  #uint(width) {
    const from = this.#take(width);
    const bytes = this.#bytes;
    if (width === 1) return bytes[from];
    if (width === 2) return (bytes[from] << 8) | bytes[from + 1];
    return (
      bytes[from] * 0x100_0000 +
      ((bytes[from + 1] << 16) | (bytes[from + 2] << 8) | bytes[from + 3])
    );
  }

  #wideInt(kind) {
    if (kind >= 0xe0) return kind - 0x100;
    if (kind === 0xcc) return this.#uint(1);
    if (kind === 0xcd) return this.#uint(2);
    if (kind === 0xce) return this.#uint(4);
    if (kind === 0xd0) return (this.#uint(1) << 24) >> 24;
    if (kind === 0xd1) return (this.#uint(2) << 16) >> 16;
    if (kind === 0xd2) return this.#uint(4) | 0;
    if (kind === 0xcf || kind === 0xd3) {
      const high = this.#uint(4);
      const value = (kind === 0xcf ? high : high | 0) * TWO_32 + this.#uint(4);
      if (Number.isSafeInteger(value)) return value;
      throw new MsgpackError("number out of bounds");
    }
    throw new MsgpackError("expected an integer");
  }

  #textLength() {
    const kind = this.#bytes[this.#at++];
    if (kind >= 0xa0 && kind <= 0xbf) return kind & 0x1f;
    if (kind === 0xd9) return this.#uint(1);
    if (kind === 0xda) return this.#uint(2);
    if (kind === 0xdb) return this.#uint(4);
    throw new MsgpackError("expected a text");
  }

  /** Return a short text, empty if it is not ASCII. */
  #ascii(from, to) {
    const bytes = this.#bytes;
    let text = "";
    for (let at = from; at < to; at++) {
      if (bytes[at] > 0x7f) return "";
      text += String.fromCharCode(bytes[at]);
    }
    return text;
  }

  #decode(from, length) {
    const bytes = this.#bytes;
    const to = from + length;
    const ascii = length <= SHORT_TO_READ ? this.#ascii(from, to) : "";
    if (ascii !== "" || length === 0) return ascii;
    try {
      return utf8.decode(bytes.subarray(from, to));
    } catch {
      throw new MsgpackError("text that is not UTF-8");
    }
  }
}

const CHUNK_BYTES = 16 * 1024;

/**
 * Writes values one after the other, each in its shortest form. May be used again after `take`.
 *
 * What it returns are views of a chunk that is shared by some hundred frames and never written
 * twice, because allocating a buffer for each costs more than writing it.
 */
export class Writer {
  #bytes = new Uint8Array(CHUNK_BYTES);
  #start = 0;
  #at = 0;

  /** Forget what was not taken; leave room for that many bytes in front. */
  start(reserved = 0) {
    this.#at = this.#start;
    this.#room(reserved);
    this.#at += reserved;
  }

  /** Return what was written, with the room in front. */
  take() {
    const written = this.#bytes.subarray(this.#start, this.#at);
    this.#start = this.#at;
    return written;
  }

  array(count) {
    this.#room(5);
    if (count < 16) this.#bytes[this.#at++] = 0x90 | count;
    else if (count < 0x1_0000) this.#header(0xdc, 2, count);
    else this.#header(0xdd, 4, count);
  }

  map(count) {
    this.#room(5);
    if (count < 16) this.#bytes[this.#at++] = 0x80 | count;
    else if (count < 0x1_0000) this.#header(0xde, 2, count);
    else this.#header(0xdf, 4, count);
  }

  nil() {
    this.#room(1);
    this.#bytes[this.#at++] = 0xc0;
  }

  bool(value) {
    this.#room(1);
    this.#bytes[this.#at++] = value ? 0xc3 : 0xc2;
  }

  /** Write a safe integer. */
  int(value) {
    this.#room(9);
    if (value >= 0) this.#positive(value);
    else this.#negative(value);
  }

  /** Write a float of 64 bits. */
  float(value) {
    this.#room(9);
    this.#bytes[this.#at] = 0xcb;
    new DataView(this.#bytes.buffer).setFloat64(this.#at + 1, value);
    this.#at += 9;
  }

  /** Write a text; throws `MsgpackError` on half of a surrogate pair. */
  text(text) {
    const length = utf8Length(text);
    if (length < 0) throw new MsgpackError("half of a surrogate pair");
    this.#room(5 + length);
    if (length < 32) this.#bytes[this.#at++] = 0xa0 | length;
    else if (length < 0x100) this.#header(0xd9, 1, length);
    else if (length < 0x1_0000) this.#header(0xda, 2, length);
    else this.#header(0xdb, 4, length);
    const isAscii = length === text.length;
    if (isAscii && length <= SHORT_TO_WRITE) {
      for (let at = 0; at < length; at++) this.#bytes[this.#at + at] = text.charCodeAt(at);
    } else utf8Encoder.encodeInto(text, this.#bytes.subarray(this.#at, this.#at + length));
    this.#at += length;
  }

  bytes(bytes) {
    const length = bytes.length;
    this.#room(5 + length);
    if (length < 0x100) this.#header(0xc4, 1, length);
    else if (length < 0x1_0000) this.#header(0xc5, 2, length);
    else this.#header(0xc6, 4, length);
    this.#bytes.set(bytes, this.#at);
    this.#at += length;
  }

  #positive(value) {
    if (value < 0x80) this.#bytes[this.#at++] = value;
    else if (value < 0x100) this.#header(0xcc, 1, value);
    else if (value < 0x1_0000) this.#header(0xcd, 2, value);
    else if (value < TWO_32) this.#header(0xce, 4, value);
    else {
      this.#header(0xcf, 4, Math.floor(value / TWO_32));
      this.#number(4, value % TWO_32);
    }
  }

  #negative(value) {
    if (value >= -0x20) this.#bytes[this.#at++] = 0x100 + value;
    else if (value >= -0x80) this.#header(0xd0, 1, value + 0x100);
    else if (value >= -0x8000) this.#header(0xd1, 2, value + 0x1_0000);
    else if (value >= -0x8000_0000) this.#header(0xd2, 4, value + TWO_32);
    else {
      const high = Math.floor(value / TWO_32);
      this.#header(0xd3, 4, high + TWO_32);
      this.#number(4, value - high * TWO_32);
    }
  }

  #header(kind, width, value) {
    this.#bytes[this.#at++] = kind;
    this.#number(width, value);
  }

  #number(width, value) {
    const bytes = this.#bytes;
    if (width === 4) {
      bytes[this.#at++] = value >>> 24;
      bytes[this.#at++] = value >>> 16;
    }
    if (width >= 2) bytes[this.#at++] = value >>> 8;
    bytes[this.#at++] = value;
  }

  #room(bytes) {
    const needed = this.#at + bytes;
    if (needed <= this.#bytes.length) return;
    const written = this.#at - this.#start;
    const larger = new Uint8Array(Math.max(CHUNK_BYTES, 2 * (written + bytes)));
    larger.set(this.#bytes.subarray(this.#start, this.#at));
    this.#bytes = larger;
    this.#start = 0;
    this.#at = written;
  }
}
