// The beginning of a message in one line, without the marks of Markdown.

/** Characters that are looked at, and that are shown at most. */
const SEEN = 600;
const SHOWN = 160;

/** `text` as one line that says what it begins with. Never HTML: it is shown as text. */
export function plainLine(text) {
  const line = text
    .slice(0, SEEN)
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/^\s*(?:#{1,6}\s+|>\s?|[-*+]\s+|\d+[.)]\s+|```\S*)/gm, "")
    .replace(/(\*\*|__|~~|`)/g, "")
    .replace(/(?<![\p{L}\p{N}])[*_](?=\S)|(?<=\S)[*_](?![\p{L}\p{N}])/gu, "")
    .replace(/\s+/g, " ")
    .trim();
  return [...line].slice(0, SHOWN).join("");
}
