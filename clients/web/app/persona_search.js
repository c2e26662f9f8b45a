// Which personas there are for somebody, in groups, and which of them fit what is typed.

import { Scope } from "../sdk/client.js";

const folded = new WeakMap();

/** Upper and lower case, and the wide letters of Chinese keyboards, are the same. */
const fold = (text) => text.normalize("NFKC").toLowerCase();

/** Whether each word of `query` is in the name or a tag of a persona; an empty one fits all. */
export function fits(persona, query) {
  if (!folded.has(persona)) {
    folded.set(persona, fold([persona.name ?? "", ...(persona.tags ?? [])].join("\n")));
  }
  const text = folded.get(persona);
  return fold(query)
    .split(/\s+/)
    .every((word) => text.includes(word));
}

/**
 * The personas of `all` that `me` may use and that fit, as [{id, personas}] without empty groups:
 * "own" the latest first, "team" those that others share by name, "public" those of the server.
 */
export function grouped(all, me, query = "") {
  const groups = { own: [], team: [], public: [] };
  for (const persona of all) {
    if (persona.deleted || !fits(persona, query)) continue;
    const group = groupOf(persona, me);
    if (group) groups[group].push(persona);
  }
  groups.own.sort((a, b) => b.updated - a.updated);
  groups.team.sort((a, b) => a.name.localeCompare(b.name));
  groups.public.sort((a, b) => a.id - b.id);
  return Object.entries(groups)
    .filter(([, personas]) => personas.length > 0)
    .map(([id, personas]) => ({ id, personas }));
}

function groupOf(persona, me) {
  if (persona.owner === me) return "own";
  if (!persona.owner) return "public";
  return persona.scope >= Scope.TENANT ? "team" : "";
}

/** A few to begin with: those who speak the language of the interface come first. */
export function suggested(all, me, language, count) {
  const own = (persona) => /\p{Script=Han}/u.test(`${persona.name}${persona.greeting ?? ""}`);
  const isChinese = language === "zh";
  // Those that others share come last: nobody has looked them over.
  const usable = grouped(all, me)
    .sort((a, b) => Number(a.id === "team") - Number(b.id === "team"))
    .flatMap(({ personas }) => personas);
  return usable
    .map((persona, index) => ({ persona, index, rank: Number(own(persona) !== isChinese) }))
    .sort((a, b) => a.rank - b.rank || a.index - b.index)
    .slice(0, count)
    .map(({ persona }) => persona);
}
