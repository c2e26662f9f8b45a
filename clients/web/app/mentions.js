// Who is mentioned in a text, and whom somebody is about to mention. Nothing here draws.

/** Of a message (docs/protocol.md §12). */
export const MENTIONS_MAX = 50;
/** What stands for everybody in `SendX.mentions`. */
export const EVERYONE = 0;

/** Longer names than this are not looked for behind an @. */
const QUERY_MAX = 40;

/** Characters of e-mail addresses: an @ behind one of them calls nobody. */
const GLUED = /[A-Za-z0-9_.+-]$/;
/** Written without spaces between words: there a name may be followed by anything. */
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]$/u;
const WORD = /^[\p{L}\p{N}_]/u;

const ORDER = { everyone: 0, persona: 1, person: 2 };

/** A name as it is compared: one width, one case. */
const plain = (text) => text.normalize("NFKC").toLowerCase();

/**
 * What is being written behind an @ up to the caret: {begin, query}, where `begin` is the place of
 * the @; null when nobody is being mentioned there.
 */
export function queryAt(text, caret) {
  const from = Math.max(0, caret - QUERY_MAX - 1);
  const before = text.slice(from, caret);
  const at = Math.max(before.lastIndexOf("@"), before.lastIndexOf("＠"));
  if (at < 0 || GLUED.test(text.slice(0, from + at).slice(-1))) return null;
  const query = before.slice(at + 1);
  if (/^\s|\n/.test(query)) return null;
  return { begin: from + at, query };
}

/**
 * Those of `candidates` ({id, kind, name, also}) whom a query may mean, the likeliest first: names
 * that begin with it, then names with a word that does, then names that contain it.
 *
 * `also` is another name that finds somebody; `kind` is "everyone", "persona" or "person".
 */
export function matching(candidates, query, most = 8) {
  const wanted = plain(query);
  const ranked = candidates
    .map((candidate) => [rankOf(candidate, wanted), candidate])
    .filter(([rank]) => rank >= 0);
  ranked.sort(
    ([a, x], [b, y]) => a - b || ORDER[x.kind] - ORDER[y.kind] || x.name.localeCompare(y.name),
  );
  return ranked.slice(0, most).map(([, candidate]) => candidate);
}

function rankOf({ name, also = "" }, wanted) {
  const names = [plain(name), plain(also)].filter(Boolean);
  if (names.some((each) => each.startsWith(wanted))) return 0;
  // Behind a space a sentence goes on, unless a name does.
  if (/\s/.test(wanted)) return -1;
  if (names.some((each) => each.split(/\s+/).some((word) => word.startsWith(wanted)))) return 1;
  return names.some((each) => each.includes(wanted)) ? 2 : -1;
}

/** The text with a name in the place of what was written behind the @; {text, caret}. */
export function withMention(text, { begin, query }, name) {
  const end = begin + 1 + query.length;
  const rest = text.slice(end);
  const put = `@${name}${rest.startsWith(" ") ? "" : " "}`;
  const caret = begin + put.length + (rest.startsWith(" ") ? 1 : 0);
  return { text: text.slice(0, begin) + put + rest, caret };
}

/**
 * The ids of those whose "@name" stands in a text, in its order, at most `MENTIONS_MAX`.
 *
 * Read from the text as it is when it is sent, so edits of it count. `picked`: ids by name that
 * were chosen from the list; they decide between people of one name, otherwise all are meant.
 */
export function mentionedIn(text, candidates, picked = new Map()) {
  const named = Map.groupBy(candidates, ({ name }) => plain(name));
  const found = callsIn(plain(text), named.keys()).flatMap(({ name }) => {
    const ids = named.get(name).map(({ id }) => id);
    const chosen = ids.filter((id) => picked.get(id) === name);
    return chosen.length > 0 ? chosen : ids;
  });
  return [...new Set(found)].slice(0, MENTIONS_MAX);
}

/** The note that a candidate was chosen, for `mentionedIn`. */
export function notePick(picked, { id, name }) {
  picked.set(id, plain(name));
}

/**
 * A text cut where it calls somebody of `called` ({name, own}, `own` for the reader): a list of
 * {text, call}, whose texts make up the whole; `call` is the one called there, or null.
 */
export function cutAtMentions(text, called) {
  if (called.length === 0 || !/[@＠]/.test(text)) return [{ text, call: null }];
  // Where people share a name, the reader may be meant.
  const named = new Map();
  for (const one of called) {
    const name = plain(one.name);
    if (one.own || !named.has(name)) named.set(name, one);
  }
  const { read, places } = readWithPlaces(text);
  const pieces = [];
  let done = 0;
  const cut = (end, call) => {
    if (end > done) pieces.push({ text: text.slice(done, end), call });
    done = end;
  };
  for (const { begin, end, name } of callsIn(read, named.keys())) {
    cut(places[begin], null);
    cut(places[end], named.get(name));
  }
  cut(text.length, null);
  return pieces;
}

/** A text as it is compared, with the place in the text of each of its characters and of its end. */
function readWithPlaces(text) {
  let read = "";
  const places = [];
  // A mark may become one with what it stands on.
  for (const { 0: whole, index } of text.matchAll(/[^][\p{M}\uFF9E\uFF9F]*/gu)) {
    const folded = plain(whole);
    for (let i = 0; i < folded.length; i++) places.push(index);
    read += folded;
  }
  return { read, places: [...places, text.length] };
}

/** Where "@name" of one of `names` stands, in order: {begin, end, name}; the longest name counts. */
function callsIn(read, names) {
  const found = new Map();
  for (const name of [...names].filter(Boolean).sort((a, b) => b.length - a.length)) {
    for (const begin of placesOf(read, name)) {
      if (!found.has(begin)) found.set(begin, { begin, end: begin + 1 + name.length, name });
    }
  }
  let done = 0;
  return [...found.values()]
    .sort((a, b) => a.begin - b.begin)
    .filter(({ begin, end }) => {
      const isFree = begin >= done;
      if (isFree) done = end;
      return isFree;
    });
}

/** Where "@name" stands as a whole. */
function* placesOf(text, name) {
  const call = `@${name}`;
  for (let at = text.indexOf(call); at >= 0; at = text.indexOf(call, at + 1)) {
    const rest = text.slice(at + call.length, at + call.length + 2);
    if (GLUED.test(text.slice(0, at).slice(-1))) continue;
    if (UNSPACED.test(name) || !WORD.test(rest) || UNSPACED.test([...rest][0])) yield at;
  }
}
