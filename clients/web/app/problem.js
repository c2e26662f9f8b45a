// What went wrong, in the language of the interface.
//
// What the server says of a refusal is English and the most exact there is. In other languages the
// words go by its tag or code.

import {
  Code,
  Disconnected,
  InvalidText,
  OutboxFull,
  RequestTimeout,
  Stopped,
  Unreachable,
} from "../sdk/client.js";

const BY_TAG = {
  "name taken": "problem.name_taken",
  "bad name": "problem.bad_name",
  "bad nick": "problem.bad_nick",
  "bad password": "problem.bad_password",
  "may not make an account": "problem.no_registration",
  "may not come in as a guest": "problem.no_guests",
  "not a picture": "problem.no_picture",
  "not a usable card": "problem.no_card",
};

const BY_CODE = {
  [Code.TOO_LARGE]: "problem.too_large",
  [Code.BAD_CREDENTIALS]: "problem.credentials",
  [Code.EXPIRED]: "problem.signed_out",
  [Code.REVOKED]: "problem.signed_out",
  [Code.NOT_FOUND]: "problem.not_found",
  [Code.NOT_PERMITTED]: "problem.not_permitted",
  [Code.BLOCKED]: "problem.not_permitted",
  [Code.INVALID]: "problem.invalid",
  [Code.STALE]: "problem.stale",
  [Code.TOO_LATE]: "problem.too_late",
  [Code.GONE]: "problem.gone",
  [Code.RATE]: "problem.rate",
  [Code.IN_FLIGHT]: "problem.rate",
  [Code.QUOTA]: "problem.quota",
  [Code.SIZE_LIMIT]: "problem.size_limit",
  [Code.INTERNAL]: "problem.internal",
  [Code.TIMEOUT]: "problem.unanswered",
  [Code.OVERLOADED]: "problem.busy",
  [Code.DRAINING]: "problem.busy",
  [Code.SLOW_CONSUMER]: "problem.busy",
  [Code.BUSY]: "problem.busy",
  [Code.MODEL_UNAVAILABLE]: "problem.no_model",
  [Code.REFUSED]: "problem.refused",
  [Code.CONTEXT_TOO_LONG]: "problem.too_long",
};

/** What to tell a person about an error of the SDK or of `Api`. `words`: the page's `Words`. */
export function explain(words, error) {
  const tag = error.tag || error.reason || "";
  if (Object.hasOwn(BY_TAG, tag)) return words.say(BY_TAG[tag]);
  const said = error.detail || error.reason || "";
  const key = keyOf(error);
  // Of a failed answer the detail is the only thing there is.
  if (key === "" || (words.language === "en" && said !== "")) return said || error.message || String(error);
  return words.say(key);
}

function keyOf(error) {
  if (error instanceof InvalidText) return "problem.invalid";
  if (error instanceof OutboxFull) return "problem.outbox_full";
  if (error instanceof Stopped) return "problem.signed_out";
  if (error instanceof Disconnected || error instanceof RequestTimeout) return "problem.unanswered";
  if (error instanceof Unreachable && !error.code) return "problem.unreachable";
  return BY_CODE[error.code] ?? "";
}
