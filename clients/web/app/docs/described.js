// Descriptions as elements. Swagger UI would write them as HTML, which no page of ours allows; the
// document has paragraphs and `code` in them, and no more is read out of them here.

const CODE = /`([^`\n]+)`/;
/** Swagger UI's own notes on a field, as in "<i>Default value</i> : 50". */
const NOTED = /^<i>([^<]*)<\/i> : /;

/** Texts and, at odd places, what stood between backticks. */
export function parts(text) {
  return text.split(CODE);
}

/** A plugin of Swagger UI. */
export function described({ React: { createElement } }) {
  const paragraph = (text, at) => {
    const inside = parts(text).map((part, index) =>
      index % 2 === 1 ? createElement("code", { key: index }, part) : part,
    );
    return createElement("p", { key: at }, inside);
  };
  const Markdown = ({ source, className = "" }) => {
    const read = typeof source === "string" ? source.replace(NOTED, "$1: ") : "";
    if (!read.trim() || read.endsWith(": ")) return null;
    const paragraphs = read.split(/\n\s*\n/).map(paragraph);
    return createElement("div", { className: `markdown ${className}` }, paragraphs);
  };
  return { wrapComponents: { Markdown: () => Markdown } };
}
