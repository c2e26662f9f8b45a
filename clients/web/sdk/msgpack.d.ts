/** How deep a value that nobody reads may be nested before the peer must be hostile. */
export declare const MAX_DEPTH: number;

/** The bytes are not what they must be, or the value cannot be written. */
export declare class MsgpackError extends Error {
  readonly tooDeep: boolean;
  constructor(reason: string, tooDeep?: boolean);
}

/** Count the bytes of a text in UTF-8, or return -1 if it holds half of a surrogate pair. */
export declare function utf8Length(text: string): number;

/** Tell whether a well-formed text has more code points than that. */
export declare function isLongerThan(text: string, maxCodePoints: number): boolean;

/** Reads one payload from its beginning to its end. Everything throws `MsgpackError`. */
export declare class Reader {
  constructor(bytes: Uint8Array);
  /** Whether everything has been read. */
  get done(): boolean;
  /** Read the header of an array; return how many elements it claims. */
  array(): number;
  /** Read the header of a map; return how many pairs it claims. */
  map(): number;
  /** Read a nil if one comes next. */
  nil(): boolean;
  bool(): boolean;
  /** Read an integer of any width. */
  int(min: number, max: number): number;
  /** Read a float of either width, or an integer in its place. */
  float(min: number, max: number): number;
  /** Read a text; what is longer is refused before it is decoded. */
  text(maxCodePoints: number): string;
  /** Read the name of a field; what no field can be called comes as an empty text. */
  name(): string;
  /** Read a binary of exactly that length, as a copy. */
  bytes(length: number): Uint8Array;
  /** Step over one value of any kind. */
  skip(): void;
}

/** Writes values one after the other, each in its shortest form. May be used again after `take`. */
export declare class Writer {
  /** Forget what was not taken; leave room for that many bytes in front. */
  start(reserved?: number): void;
  /** Return what was written, with the room in front: a view of a buffer that others share. */
  take(): Uint8Array;
  array(count: number): void;
  map(count: number): void;
  nil(): void;
  bool(value: boolean): void;
  /** Write a safe integer. */
  int(value: number): void;
  /** Write a float of 64 bits. */
  float(value: number): void;
  /** Write a text; throws `MsgpackError` on half of a surrogate pair. */
  text(text: string): void;
  bytes(bytes: Uint8Array): void;
}
