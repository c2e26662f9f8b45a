export declare const HEADER_BYTES: 4;
export declare const MAX_LENGTH: number;

/** What a TCP client sends first; a WebSocket client sends nothing. */
export declare const PREFACE: Uint8Array;

/** The subprotocols of `GET /ws`. */
export declare const SUBPROTOCOLS: { readonly msgpack: "pwp1.msgpack"; readonly json: "pwp1.json" };

/** A connection closes with this plus the code of its `bye`. */
export declare const WEBSOCKET_CLOSE_BASE: 4000;

/** The peer broke a rule of the protocol, or this side was about to. */
export declare class ProtocolError extends Error {
  /** As in `err` and `bye`: 100 framing, 101 malformed, 102 unknown message, 103 too large. */
  readonly code: number;
  /** Text for logs; never quotes what was sent. */
  readonly reason: string;
  /** The request the broken message names, 0 when there is none to be found. */
  readonly rid: number;
  /** Whether the connection cannot go on. */
  readonly closes: boolean;
  constructor(code: number, reason: string, options?: { rid?: number; closes?: boolean });
}

/** Write the header of a frame into its first four bytes, which must be free; return the frame. */
export declare function setHeader(frame: Uint8Array): Uint8Array;

/** Return payload with its header in front. */
export declare function joinFrame(payload: Uint8Array): Uint8Array;

/** Cuts the payloads out of one connection's byte stream. */
export declare class FrameDecoder {
  /** Largest payload accepted; may be raised after sign-in. */
  maxPayloadBytes: number;
  /** Why the stream cannot be cut any more: look at it after handling what `feed` returned. */
  readonly error: ProtocolError | null;
  constructor(maxPayloadBytes: number);
  /** Bytes of an unfinished frame that are being held. */
  get bufferedBytes(): number;
  /** Return the payloads that data completes, in the order of the wire, maybe as views of data. */
  feed(data: Uint8Array): Uint8Array[];
}

/**
 * Return the payloads of one binary WebSocket message, which holds whole frames; throws
 * `ProtocolError` with code 100 or 103.
 */
export declare function cutMessage(data: Uint8Array, maxPayloadBytes: number): Uint8Array[];
