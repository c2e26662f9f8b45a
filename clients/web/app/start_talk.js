// Talking to a persona: where one left off, or from the beginning.

import { ClientError, ConvKind } from "../sdk/client.js";

/** Pages of the list of conversations in which an earlier one is looked for. */
const PAGES_MAX = 20;

/**
 * Go to the latest conversation with a persona, or to a new one if there is none; `fresh` makes a
 * new one in any case. What goes wrong is told; resolves with whether it worked.
 */
export async function startTalk({ client, model, route, overlay }, persona, { fresh = false } = {}) {
  try {
    const known = fresh ? undefined : await latest(client, model, persona);
    const conv = known?.conv ?? (await client.createConversation(ConvKind.AI, { persona })).row.id;
    route.chat(conv);
    return true;
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    overlay.complain(error);
    return false;
  }
}

async function latest(client, model, persona) {
  for (let page = 0; ; page++) {
    const found = talksWith(client, persona)[0];
    if (found !== undefined || !model.moreConvs.peek() || page === PAGES_MAX) return found;
    await model.listMore();
  }
}

/** One's conversations with a persona alone, as far as they are known; the best to go on first. */
function talksWith(client, persona) {
  return [...client.feeds.convs.values()]
    .filter(({ row, left }) => row.kind === ConvKind.AI && row.persona === persona && !left && !row.deleted)
    .sort((a, b) => Number(Boolean(a.my.archived)) - Number(Boolean(b.my.archived)) || b.updated - a.updated);
}
