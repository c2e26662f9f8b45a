// From what is in the field to a message, or to the change of one.

import { ClientError } from "../sdk/client.js";
import { TEXT_MAX } from "../sdk/outbox.js";

// What no message may contain (docs/protocol.md §15): pasted, nobody sees it.
const INVISIBLE = /[\x00-\x08\x0b-\x1f]/g;
/** Code units below which no text needs to be counted in characters. */
const NEAR = 0.9;

/** The text as it is sent: without characters that no message has, and empty lines around it. */
export function readyText(text) {
  return text
    .replaceAll("\r\n", "\n")
    .replace(INVISIBLE, "")
    .toWellFormed()
    .replace(/^(?:[^\S\n]*\n)+/, "")
    .trimEnd();
}

/** How many characters more a text may have; null while there is plenty of room. */
export function roomLeft(client, text) {
  const most = Math.min(TEXT_MAX, client.limits.text || TEXT_MAX);
  if (text.length < most * NEAR) return null;
  return most - [...readyText(text).normalize("NFC")].length;
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
