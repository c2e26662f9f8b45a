/**
 * A reader of JSON (RFC 8259) that keeps what `JSON.parse` loses: whether a number was written as
 * an integer, halves of surrogate pairs, and how deep the text is nested.
 */

import { MAX_DEPTH, MsgpackError, utf8Length } from "./msgpack.js";

/** A number that was written with a fraction or an exponent. */
export class JsonFloat {
  constructor(value) {
    this.value = value;
  }
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
// Unrolled, so that neither a long text nor one without an end costs more than its length.
const STRING =
  /"[^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\u0000-\u001f]*)*"/y;
const WORDS = new Map([["true", true], ["false", false], ["null", null]]);

/**
 * Return the value of a JSON text. Objects have no prototype, the last of equal keys counts.
 *
 * @throws {MsgpackError} for anything that is not JSON
 */
export function parseJson(text) {
  const parser = new Parser(text);
  const value = parser.value(0);
  parser.end();
  return value;
}

class Parser {
  #text;
  #at = 0;

  constructor(text) {
    this.#text = text;
  }

  value(depth) {
    if (depth > MAX_DEPTH) throw new MsgpackError("nested too deeply", true);
    const letter = this.#next();
    if (letter === "{") return this.#object(depth);
    if (letter === "[") return this.#list(depth);
    if (letter === '"') return this.#string();
    for (const [word, value] of WORDS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    const [digits, fraction, exponent] = this.#match(NUMBER);
    if (fraction !== undefined || exponent !== undefined) return new JsonFloat(Number(digits));
    return Number(digits) + 0; // -0 is 0
  }

  end() {
    if (this.#next() !== undefined) throw new MsgpackError("not JSON");
  }

  #object(depth) {
    const fields = Object.create(null);
    this.#at++;
    if (this.#took("}")) return fields;
    do {
      if (this.#next() !== '"') throw new MsgpackError("not JSON");
      const key = this.#string();
      this.#expect(":");
      fields[key] = this.value(depth + 1);
    } while (this.#took(","));
    this.#expect("}");
    return fields;
  }

  #list(depth) {
    const items = [];
    this.#at++;
    if (this.#took("]")) return items;
    do items.push(this.value(depth + 1));
    while (this.#took(","));
    this.#expect("]");
    return items;
  }

  #string() {
    const text = JSON.parse(this.#match(STRING)[0]);
    if (utf8Length(text) < 0) throw new MsgpackError("half of a surrogate pair");
    return text;
  }

  /** Return the next letter that is not white space, without taking it. */
  #next() {
    this.#match(SPACE);
    return this.#text[this.#at];
  }

  #took(letter) {
    if (this.#next() !== letter) return false;
    this.#at++;
    return true;
  }

  #expect(letter) {
    if (!this.#took(letter)) throw new MsgpackError("not JSON");
  }

  #match(pattern) {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (found === null) throw new MsgpackError("not JSON");
    this.#at = pattern.lastIndex;
    return found;
  }
}
