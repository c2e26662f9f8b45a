import type { ClientMessage, Messages, ServerMessage } from "./messages.js";

export { ProtocolError } from "./frames.js";

/** The fields of one message. Its `t` may be there too and counts for nothing. */
export type Fields<N extends keyof Messages> = Omit<Messages[N], "t">;

/**
 * Return the bytes of one whole frame, header included, ready to be sent: a view of a buffer that
 * other frames share, so do not transfer it to a worker.
 *
 * Throws `ProtocolError`: 101 when a field is missing or out of bounds, 102 for an unknown name,
 * 103 when no frame can hold it.
 */
export declare function encode<N extends keyof Messages>(name: N, fields: Fields<N>): Uint8Array;

/** Return the JSON text of one message; throws as `encode`. */
export declare function encodeJson<N extends keyof Messages>(name: N, fields: Fields<N>): string;

/**
 * Return the message of the server that a payload (without header) holds. Its binaries are copies.
 *
 * Throws `ProtocolError`: 101 when it is not a valid message (`closes` if it was nested beyond
 * anything honest), 102 when its code is not of a message that a server sends: ignore it.
 */
export declare function decode(payload: Uint8Array): ServerMessage;

/** As `decode`, for what a client sends. */
export declare function decodeClient(payload: Uint8Array): ClientMessage;

/** As `decode`, for one text message of the JSON mode. */
export declare function decodeJson(text: string): ServerMessage;

/** As `decodeJson`, for what a client sends. */
export declare function decodeClientJson(text: string): ClientMessage;

/** Return code and request id of a payload without decoding it, 0 for what is not there. */
export declare function peek(payload: Uint8Array): [code: number, rid: number];
