/**
 * Messages to wire bytes and back, in both encodings, from the tables in messages.js.
 *
 * A message is a plain object: `t` is its name, its other keys are the fields of docs/protocol.md
 * §12. In rows a field that may be missing is always there once decoded (with its default, else
 * null); in entities it is left out. Binary is a Uint8Array, `meta` an object without prototype.
 */

import { HEADER_BYTES, ProtocolError, setHeader } from "./frames.js";
import { parseJson } from "./json.js";
import { MsgpackError, Reader, Writer } from "./msgpack.js";
import { CLIENT, MAX_CODE, SERVER, beginAt, place } from "./shapes.js";

export { ProtocolError } from "./frames.js";

const MALFORMED = 101;
const UNKNOWN_TYPE = 102;

const writer = new Writer();

function findMessage(name) {
  const message = CLIENT.byName.get(name) ?? SERVER.byName.get(name);
  if (message === undefined) throw new ProtocolError(UNKNOWN_TYPE, "unknown message type");
  return message;
}

/** Run an encoder; what it refuses becomes a `ProtocolError` that names the field. */
function guard(name, encodeFields) {
  beginAt(name);
  try {
    return encodeFields();
  } catch (error) {
    if (!(error instanceof MsgpackError)) throw error;
    throw new ProtocolError(MALFORMED, `${place}: ${error.message}`);
  }
}

/**
 * Return the bytes of one whole frame, header included, ready to be sent.
 *
 * @throws {ProtocolError} 101 when a field is missing or out of bounds, 102 for an unknown name,
 *   103 when no frame can hold it
 */
export function encode(name, fields) {
  const message = findMessage(name);
  return guard(name, () => {
    writer.start(HEADER_BYTES);
    message.write(writer, fields);
    return setHeader(writer.take());
  });
}

/** Return the JSON text of one message; throws as `encode`. */
export function encodeJson(name, fields) {
  const message = findMessage(name);
  return guard(name, () => JSON.stringify(message.toJson(fields)));
}

/**
 * Return the message of the server that a payload (without header) holds.
 *
 * @throws {ProtocolError} 101 when it is not a valid message (`closes` if it was nested beyond
 *   anything honest), 102 when its code is not of a message that a server sends: ignore it
 */
export function decode(payload) {
  return decodeFrom(SERVER, payload);
}

/** As `decode`, for what a client sends. */
export function decodeClient(payload) {
  return decodeFrom(CLIENT, payload);
}

/** As `decode`, for one text message of the JSON mode. */
export function decodeJson(text) {
  return decodeTextFrom(SERVER, text);
}

/** As `decodeJson`, for what a client sends. */
export function decodeClientJson(text) {
  return decodeTextFrom(CLIENT, text);
}

function decodeFrom(side, payload) {
  const reader = new Reader(payload);
  beginAt("message");
  try {
    const message = side.read(reader);
    if (!reader.done) throw new MsgpackError("bytes behind the message");
    return message;
  } catch (error) {
    if (!(error instanceof MsgpackError)) throw error;
    throw explain(side, payload, error);
  }
}

function explain(side, payload, error) {
  if (error.tooDeep) return new ProtocolError(MALFORMED, error.message, { closes: true });
  const [code, rid] = peek(payload);
  const message = side.byCode[code];
  if (code !== 0 && message === null) {
    return new ProtocolError(UNKNOWN_TYPE, "unknown message type", { rid });
  }
  const known = message?.hasRid ? rid : 0;
  return new ProtocolError(MALFORMED, `${place}: ${error.message}`, { rid: known });
}

/** Return code and request id of a payload without decoding it, 0 for what is not there. */
export function peek(payload) {
  const first = payload[0];
  const at = first >= 0x91 && first <= 0x9f ? 1 : first === 0xdc ? 3 : 0;
  if (at === 0 || !(payload[at] <= MAX_CODE)) return [0, 0];
  return [payload[at], peekUint(payload, at + 1)];
}

function peekUint(payload, at) {
  const kind = payload[at];
  if (kind <= 0x7f) return kind;
  const width = kind === 0xcc ? 1 : kind === 0xcd ? 2 : kind === 0xce ? 4 : 0;
  if (width === 0 || at + width >= payload.length) return 0;
  return payload.subarray(at + 1, at + 1 + width).reduce((sum, byte) => sum * 256 + byte, 0);
}

function decodeTextFrom(side, text) {
  beginAt("message");
  let value = null;
  try {
    value = parseJson(text);
    return side.fromJson(value);
  } catch (error) {
    if (!(error instanceof MsgpackError)) throw error;
    throw explainText(side, value, error);
  }
}

function explainText(side, value, error) {
  if (error.tooDeep) return new ProtocolError(MALFORMED, error.message, { closes: true });
  if (typeof value?.t !== "string") return new ProtocolError(MALFORMED, "not a JSON message");
  const rid = Number.isInteger(value.rid) && value.rid >= 0 && value.rid < 2 ** 32 ? value.rid : 0;
  if (!side.byName.has(value.t)) {
    return new ProtocolError(UNKNOWN_TYPE, "unknown message type", { rid });
  }
  return new ProtocolError(MALFORMED, `${place}: ${error.message}`, { rid });
}
