// A model's Markdown as elements. The text is never read as HTML: the parser gives tokens, and each
// becomes an element from a short list or a piece of text. Nothing is fetched for it but colours.

import MarkdownIt from "../vendor/markdown-it/15.0.3/markdown-it.esm.min.mjs";
import { highlight, isLoaded, languageOf, load } from "./highlight.js";
import { cutAtMentions } from "./mentions.js";

/** Longer texts are shown as they are, in characters. */
export const MAX_MARKDOWN = 200_000;
/** Longer code is shown without colours, in characters. */
export const MAX_COLOURED = 100_000;
/** Code that still grows is coloured anew at each step up to here, then at each quarter more. */
const COLOURED_AT_ONCE = 4_000;

const SCHEMES = new Set(["http:", "https:", "mailto:"]);
const TAGS = new Set(
  "blockquote br em hr li ol p s strong table tbody td th thead tr ul".split(" "),
);

const parser = new MarkdownIt({ html: false, linkify: true, breaks: true, typographer: false });
// Only what is written as an address becomes one: many file names end like a domain (main.py).
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
parser.validateLink = (href) => safeHref(href) !== null;

/**
 * The address a link of a stranger's text may lead to, null for all others: no scripts, no
 * addresses within this site, none with a name and password that look like another host.
 */
export function safeHref(href) {
  try {
    const url = new URL(href);
    const isPlain = SCHEMES.has(url.protocol) && url.username === "" && url.password === "";
    return isPlain ? url.href : null;
  } catch {
    return null;
  }
}

/**
 * Shows one text that may grow.
 *
 * `render` may be called for every piece that arrives: blocks that did not change stay the same
 * elements, so selections and scrolled code stay, and only the end is made anew. Owns everything
 * inside `element`.
 */
export class MarkdownView {
  #element;
  #options;
  #blocks = [];
  #called = [];
  #references = "";

  /**
   * `imageLabel` names a picture without a description of its own. `frameCode` may put something
   * around a block of code: it is given the block's element, the name of its language ("" for
   * none), and a function that returns the code; what it returns is shown instead.
   */
  constructor(element, { imageLabel = "image", frameCode = (block) => block } = {}) {
    this.#element = element;
    this.#options = { imageLabel, frameCode };
    element.classList.add("md");
  }

  /**
   * Show `text`; `done` tells that no more of it will come, `called` who is called in it, as
   * `cutAtMentions` takes it.
   */
  render(text, { done = true, called = [] } = {}) {
    if (JSON.stringify(called) !== JSON.stringify(this.#called)) this.#drop(0);
    this.#called = called;
    if (text.length > MAX_MARKDOWN) {
      this.#showPlainly(text);
      return;
    }
    const { sources, references } = split(text);
    const known = JSON.stringify(references);
    // A definition at the end changes links at the beginning.
    if (known !== this.#references) this.#drop(0);
    this.#references = known;
    const same = this.#countSame(sources);
    const last = sources.length - 1;
    const grows = same === last && this.#blocks.length === sources.length;
    if (!(grows && this.#grow(this.#blocks[last], sources[last], done))) {
      this.#drop(same);
      for (let i = same; i <= last; i++) this.#add(sources[i], references, done || i < last);
    }
    for (const block of this.#blocks) {
      if (!block.code?.finished && (done || block !== this.#blocks[last])) block.code?.finish();
    }
  }

  #showPlainly(text) {
    this.#drop(0);
    this.#references = "";
    const plain = make("div", "md-plain");
    plain.append(text);
    this.#blocks = [{ source: null, nodes: [plain], code: null }];
    this.#element.replaceChildren(plain);
  }

  #countSame(sources) {
    const most = Math.min(sources.length, this.#blocks.length);
    let count = 0;
    while (count < most && this.#blocks[count].source === sources[count]) count++;
    return count;
  }

  #drop(from) {
    for (const block of this.#blocks.splice(from)) for (const node of block.nodes) node.remove();
  }

  #add(source, references, finished) {
    const tokens = parser.parse(source, { references: { ...references } });
    const builder = new Builder({ ...this.#options, called: this.#called }, finished);
    builder.addAll(tokens);
    const code = isCode(tokens) ? builder.codes[0] : null;
    this.#blocks.push({ source, nodes: [...builder.root.childNodes], code });
    this.#element.append(builder.root);
  }

  /** Put more into the block of code that is there; false when it is something else now. */
  #grow(block, source, finished) {
    if (block.code === null) return false;
    const tokens = parser.parse(source, {});
    if (!isCode(tokens) || labelOf(tokens[0]) !== block.code.label) return false;
    block.code.show(tokens[0].content, finished);
    block.source = source;
    return true;
  }
}

/** Cut a text into its top-level blocks, and find its link definitions. */
function split(text) {
  const normal = text.replace(/\r\n?/g, "\n").replace(/\0/g, "\uFFFD");
  const tokens = [];
  const environment = {};
  parser.block.parse(normal, parser, environment, tokens);
  const lines = normal.split("\n");
  const sources = tokens
    .filter((token) => token.level === 0 && token.nesting >= 0)
    .map((token) => lines.slice(...token.map).join("\n"));
  return { sources, references: environment.references ?? {} };
}

function isCode(tokens) {
  return tokens.length === 1 && (tokens[0].type === "fence" || tokens[0].type === "code_block");
}

function labelOf(token) {
  return (token.info ?? "").trim().split(/[\s{]/, 1)[0].slice(0, 40);
}

function make(tag, name = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  return element;
}

/** One block of code, which may grow. */
class Code {
  element = make("pre", "md-code");
  label;
  finished = false;
  #code = make("code");
  #language;
  #text = "";
  #coloured = 0;
  #waits = false;

  constructor(label, text, finished) {
    this.label = label;
    this.#language = languageOf(label);
    // Long lines scroll, and not every reader has a mouse.
    this.element.tabIndex = 0;
    if (label) this.element.dataset.language = label;
    this.element.append(this.#code);
    this.show(text, finished);
  }

  show(text, finished) {
    const before = this.#text;
    this.finished = finished;
    this.#text = text;
    if (this.#wantsColours()) this.#colour();
    else if (before !== "" && text.startsWith(before)) this.#append(text.slice(before.length));
    else {
      this.#code.replaceChildren(text);
      this.#coloured = 0;
    }
  }

  get text() {
    return this.#text;
  }

  /** No more will come: give all of it its colours. */
  finish() {
    this.show(this.#text, true);
  }

  #wantsColours() {
    const length = this.#text.length;
    if (this.#language === "" || length > MAX_COLOURED) return false;
    return this.finished || length <= COLOURED_AT_ONCE || length >= this.#coloured * 1.25;
  }

  #colour() {
    if (isLoaded(this.#language)) {
      highlight(this.#code, this.#text, this.#language);
      this.#coloured = this.#text.length;
      return;
    }
    this.#code.replaceChildren(this.#text);
    this.#coloured = this.#text.length;
    if (!this.#waits) this.#colourLater();
  }

  async #colourLater() {
    this.#waits = true;
    const there = await load(this.#language);
    this.#waits = false;
    if (there && this.#text.length <= MAX_COLOURED) this.#colour();
  }

  #append(more) {
    const last = this.#code.lastChild;
    if (last instanceof Text) last.appendData(more);
    else this.#code.append(more);
  }
}

/** Makes elements of the parser's tokens. */
class Builder {
  root = document.createDocumentFragment();
  codes = [];
  #open = [this.root];
  #options;
  #finished;

  constructor(options, finished) {
    this.#options = options;
    this.#finished = finished;
  }

  addAll(tokens) {
    for (const token of tokens) this.#add(token);
  }

  #add(token) {
    if (token.type === "inline") this.addAll(token.children);
    else if (token.nesting === 1) this.#openElement(token);
    else if (token.nesting === -1) this.#open.pop();
    else this.#append(this.#leaf(token));
  }

  #append(node) {
    this.#open.at(-1).append(node);
  }

  #openElement(token) {
    const inner = token.hidden ? this.#open.at(-1) : elementOf(token);
    if (!token.hidden) this.#append(token.tag === "table" ? scrolled(inner) : inner);
    this.#open.push(inner);
  }

  #leaf(token) {
    switch (token.type) {
      case "softbreak":
      case "hardbreak":
        return make("br");
      case "hr":
        return make("hr");
      case "code_inline":
        return withText("code", token.content);
      case "fence":
      case "code_block":
        return this.#code(token);
      case "image":
        return imageLink(token, this.#options.imageLabel);
      default:
        return this.#text(token.content);
    }
  }

  /** A piece of text, with those marked who are called in it. */
  #text(text) {
    // A link is marked as such already.
    if (this.#open.some(({ localName }) => localName === "a")) return text;
    const part = document.createDocumentFragment();
    for (const { text: piece, call } of cutAtMentions(text, this.#options.called)) {
      part.append(call ? withText("span", piece, call.own ? "mention own" : "mention") : piece);
    }
    return part;
  }

  #code(token) {
    const code = new Code(labelOf(token), token.content, this.#finished);
    this.codes.push(code);
    return this.#options.frameCode(code.element, code.label, () => code.text);
  }
}

function withText(tag, text, name) {
  const element = make(tag, name);
  element.append(text);
  return element;
}

function elementOf(token) {
  if (token.type === "link_open") return link(token.attrGet("href") ?? "");
  if (token.type === "heading_open") return heading(token.tag);
  const element = make(TAGS.has(token.tag) ? token.tag : "span");
  if (["p", "li", "th", "td"].includes(token.tag)) element.dir = "auto";
  if (token.tag === "ol" && token.attrGet("start")) element.start = Number(token.attrGet("start"));
  const align = /^text-align:(left|center|right)$/.exec(token.attrGet("style") ?? "");
  if (align) element.classList.add(`md-${align[1]}`);
  return element;
}

/** Wide tables scroll, and not every reader has a mouse. */
function scrolled(table) {
  const frame = make("div", "md-table");
  frame.tabIndex = 0;
  frame.append(table);
  return frame;
}

/** The page has a heading of its own above those of messages: the title of the conversation. */
function heading(tag) {
  const level = Number(tag.slice(1));
  const element = make(`h${Math.min(level + 1, 6)}`, `md-${tag}`);
  element.dir = "auto";
  return element;
}

/** A link says where it leads: its text may say something else. */
function link(href) {
  const safe = safeHref(href);
  if (safe === null) return make("span");
  const element = make("a");
  element.href = safe;
  element.title = safe;
  element.target = "_blank";
  element.rel = "noopener noreferrer nofollow";
  return element;
}

/** A picture is only named: fetching it would tell its owner who reads, and could carry text out. */
function imageLink(token, fallback) {
  const element = link(token.attrGet("src") ?? "");
  element.classList.add("md-image");
  element.append(token.content || fallback);
  return element;
}
