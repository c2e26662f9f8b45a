// From what is in the field to a message, or to the change of one.

import { ClientError } from "../sdk/client.js";
import { TEXT_MAX } from "../sdk/outbox.js";

// What no message may contain (docs/protocol.md §15): pasted, nobody sees it.
const INVISIBLE = /[\x00-\x08\x0b-\x1f]/g;
/** What is not the text of a message, in bytes: far more than quote and mentions take. */
const FRAME_REST = 1024;
/** What servers take unless they say otherwise; nobody has said anything before the first sign-in. */
const FRAME_BYTES = 160 * 1024;
/** The part of a bound from which on people are told how much room there is. */
const NEAR = 0.9;

const encoder = new TextEncoder();

/** The text as it is sent: without characters that no message has, and empty lines around it. */
export function readyText(text) {
  return text
    .replaceAll("\r\n", "\n")
    .replace(INVISIBLE, "")
    .toWellFormed()
    .replace(/^(?:[^\S\n]*\n)+/, "")
    .trimEnd();
}

/**
 * How many characters more a text may have, below 0 when it is too long; null while there is plenty
 * of room. A message has a bound in characters; where the server takes small frames only,
 * Chinese text meets another one first, in bytes.
 */
export function roomLeft({ limits }, text) {
  const characters = Math.min(TEXT_MAX, limits.text || TEXT_MAX);
  const bytes = (limits.frame || FRAME_BYTES) - FRAME_REST;
  if (text.length < NEAR * Math.min(characters, bytes / 3)) return null;
  const ready = [...readyText(text).normalize("NFC")];
  const size = encoder.encode(ready.join("")).length;
  const left = Math.min(characters - ready.length, charactersFor(bytes - size, ready));
  return left > characters * (1 - NEAR) ? null : left;
}

/** How many characters like the last ones of a text make so many bytes. */
function charactersFor(bytes, characters) {
  let over = 0;
  for (let at = characters.length - 1; bytes < 0 && at >= 0; at--) {
    bytes += encoder.encode(characters[at]).length;
    over += 1;
  }
  const last = encoder.encode(characters.at(-1) ?? "").length;
  return over > 0 ? -over : Math.floor(bytes / Math.max(1, last));
}

/**
 * Send what is written in a conversation, or save the message that is being changed; resolves with
 * whether that was done. What was refused is told, and stays in the field.
 *
 * mentions: ids of those who are called; before: the message that is being changed, as it was when
 * that began.
 */
export async function submit(app, conv, { mentions = [], before = null } = {}) {
  const { client, drafts, overlay } = app;
  const { text, quote, edit } = drafts.of(conv).peek();
  const ready = readyText(text);
  if (ready.trim() === "") return false;
  try {
    if (edit !== 0) await save(client, conv, edit, ready, before, mentions);
    else client.post(conv, ready, { x: optionsOf(quote, mentions) });
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    overlay.complain(error);
    return false;
  }
  if (drafts.of(conv).peek().edit === edit) drafts.clear(conv);
  return true;
}

async function save(client, conv, seq, text, before, mentions) {
  if (text === before?.text) return;
  const had = before?.x?.mentions?.length > 0;
  const x = had || mentions.length > 0 ? { mentions } : null;
  await client.edit(conv, seq, text, { base: before?.rev ?? 0, x });
}

function optionsOf(quote, mentions) {
  const x = {};
  if (quote !== 0) x.quote = quote;
  if (mentions.length > 0) x.mentions = mentions;
  return Object.keys(x).length > 0 ? x : null;
}
