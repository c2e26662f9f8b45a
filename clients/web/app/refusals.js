// What the server refused, in words that say what to do next.

import { Code } from "../sdk/client.js";

const WORDS = {
  [Code.NOT_FOUND]: "refusal.not_found",
  [Code.NOT_PERMITTED]: "refusal.not_permitted",
  [Code.INVALID]: "refusal.invalid",
  [Code.STALE]: "refusal.stale",
  [Code.TOO_LATE]: "refusal.too_late",
  [Code.GONE]: "refusal.gone",
  [Code.RATE]: "refusal.rate",
  [Code.QUOTA]: "refusal.quota",
  [Code.SIZE_LIMIT]: "refusal.size",
  [Code.REFUSED]: "refusal.refused",
  [Code.CONTEXT_TOO_LONG]: "refusal.context",
};

/**
 * What to tell somebody about an error of the SDK, a refused message or an answer that failed:
 * anything with {code, reason, detail}. The server's own advice comes first.
 */
export function refusalText(say, { code = 0, reason = "", detail = "", message = "" }) {
  if (detail) return detail;
  if (reason === "muted") return say("refusal.muted");
  const words = WORDS[code] ?? general(code);
  return words ? say(words) : reason || message;
}

function general(code) {
  if (code >= 600) return "refusal.model";
  return code >= 500 ? "refusal.server" : "";
}

/** Say it above the page. */
export function complain({ overlay, say }, error) {
  overlay.say(refusalText(say, error), "error");
}
