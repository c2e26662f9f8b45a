// Colours for code: the highlighter and each language are fetched when first wanted.
// What the highlighter finds becomes elements here; it never gets to write HTML.

const ROOT = "../vendor/highlight/11.12.0/";

const LANGUAGES = {
  bash: ["sh", "shell", "zsh", "console"],
  c: ["h"],
  cpp: ["c++", "cc", "hpp", "cxx"],
  csharp: ["cs", "c#"],
  css: [],
  diff: ["patch"],
  dockerfile: ["docker"],
  go: ["golang"],
  ini: ["toml"],
  java: [],
  javascript: ["js", "jsx", "mjs", "cjs"],
  json: ["jsonc", "json5"],
  kotlin: ["kt"],
  lua: [],
  makefile: ["make", "mk"],
  markdown: ["md"],
  php: [],
  python: ["py", "python3"],
  ruby: ["rb"],
  rust: ["rs"],
  sql: ["mysql", "sqlite", "postgresql"],
  swift: [],
  typescript: ["ts", "tsx"],
  xml: ["html", "xhtml", "svg"],
  yaml: ["yml"],
};

/** Languages that appear inside others. */
const INSIDE = { markdown: ["xml"], php: ["xml"], xml: ["css", "javascript"] };

const names = new Map(
  Object.entries(LANGUAGES).flatMap(([name, others]) => [name, ...others].map((n) => [n, name])),
);
const loading = new Map();
let engine = null;

/** The language's own name, "" when there are no colours for it. */
export function languageOf(label) {
  return names.get(label.toLowerCase()) ?? "";
}

/** Whether `highlight` would colour this language at once. */
export function isLoaded(language) {
  return engine !== null && engine.getLanguage(language) !== undefined;
}

/**
 * Fetch a language and what appears inside it. Resolves to whether it is there now; a language
 * that could not be fetched is tried again when it is next asked for.
 */
export function load(language) {
  if (!loading.has(language)) {
    const fetched = fetchLanguage(language).catch(() => {
      loading.delete(language);
      return false;
    });
    loading.set(language, fetched);
  }
  return loading.get(language);
}

async function fetchLanguage(language) {
  const [core, grammar] = await Promise.all([
    import(`${ROOT}core.min.js`),
    import(`${ROOT}languages/${language}.min.js`),
    ...(INSIDE[language] ?? []).map(load),
  ]);
  engine ??= core.default;
  engine.registerLanguage(language, grammar.default);
  return true;
}

/** Put `text` into `element` with the colours of a loaded language, or plainly when that fails. */
export function highlight(element, text, language) {
  let found = null;
  try {
    found = engine.highlight(text, { language, ignoreIllegals: true });
  } catch {
    // A grammar that trips over a text is no reason not to show it.
  }
  if (found === null || found.illegal || found.errorRaised) {
    element.replaceChildren(text);
    return;
  }
  const builder = new Builder();
  found._emitter.walk(builder);
  element.replaceChildren(builder.root);
}

/** Turns the highlighter's tree into elements. */
class Builder {
  root = document.createDocumentFragment();
  #open = [this.root];

  addText(text) {
    this.#open.at(-1).append(text);
  }

  openNode(node) {
    if (!node.scope) return;
    const span = document.createElement("span");
    span.className = classOf(node.scope);
    this.#open.at(-1).append(span);
    this.#open.push(span);
  }

  closeNode(node) {
    if (node.scope) this.#open.pop();
  }
}

/** "title.class" is written "hljs-title class_", as in the highlighter's own style sheets. */
function classOf(scope) {
  if (scope.startsWith("language:")) return scope.replace("language:", "language-");
  const [first, ...more] = scope.split(".");
  return [`hljs-${first}`, ...more.map((part, i) => part + "_".repeat(i + 1))].join(" ");
}
