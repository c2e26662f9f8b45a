// Which words the interface uses: chosen by the browser, changed by the person, kept on the device.

import { en } from "./words_en.js";
import { zh } from "./words_zh.js";

const TABLES = { en, zh };
const STORED_AS = "parlance.language";

export const LANGUAGES = Object.freeze({ en: "English", zh: "中文" });

const isKnown = (language) => Object.hasOwn(LANGUAGES, language);

/** `localStorage` or `sessionStorage`; null where the person lets pages keep nothing. */
export function storageOf(name, page = globalThis) {
  try {
    return page[name];
  } catch {
    return null;
  }
}

/** The first language of the browser's list that there are words for; English otherwise. */
export function chooseLanguage(wanted) {
  const found = wanted.map((tag) => tag.toLowerCase().split("-")[0]).find(isKnown);
  return found ?? "en";
}

/**
 * The words of one language at a time.
 *
 * `storage` is where the person's choice is kept (localStorage, or null for nowhere). A storage
 * that refuses, as in some private windows, only means that the choice is not remembered.
 * `tables` are words of the page's own, {en, zh}, beside those that all pages have.
 */
export class Words extends EventTarget {
  #language;
  #storage;
  #plurals;
  #numbers;
  #own;

  constructor({
    wanted = navigator.languages,
    storage = storageOf("localStorage"),
    tables = { en: {}, zh: {} },
  } = {}) {
    super();
    this.#storage = storage;
    this.#own = tables;
    const kept = this.#read();
    this.#use(isKnown(kept) ? kept : chooseLanguage([...wanted]));
  }

  /** "en" or "zh". */
  get language() {
    return this.#language;
  }

  /** For the attribute `lang` and for Intl. */
  get locale() {
    return this.#language === "zh" ? "zh-CN" : "en";
  }

  /** Change the language and remember it; listeners of "change" draw anew. */
  choose(language) {
    if (!isKnown(language)) throw new RangeError(`no words in ${language}`);
    if (language === this.#language) return;
    this.#use(language);
    this.#write(language);
    this.dispatchEvent(new Event("change"));
  }

  /**
   * The words for a key, with `{name}` replaced by values. What counts things has one form for
   * each plural of the language and is chosen by the value `count`.
   */
  say(key, values = {}) {
    const found = [this.#own, TABLES].find((each) => Object.hasOwn(each[this.#language], key));
    if (found === undefined) throw new RangeError(`no words for ${key}`);
    const entry = found[this.#language][key];
    const text = typeof entry === "string" ? entry : this.#plural(entry, values.count);
    return text.replace(/\{(\w+)\}/g, (whole, name) =>
      Object.hasOwn(values, name) ? this.#written(values[name]) : whole,
    );
  }

  /** A number with the digits grouped as the language does it. */
  number(value) {
    return this.#numbers.format(value);
  }

  /** When something was, as short as it can be told today. */
  time(date, now = new Date()) {
    const sameDay = date.toDateString() === now.toDateString();
    const sameYear = date.getFullYear() === now.getFullYear();
    const day = { month: "short", day: "numeric", ...(sameYear ? {} : { year: "numeric" }) };
    const clock = { hour: "2-digit", minute: "2-digit" };
    return new Intl.DateTimeFormat(this.locale, sameDay ? clock : { ...day, ...clock }).format(date);
  }

  #use(language) {
    this.#language = language;
    this.#plurals = new Intl.PluralRules(this.locale);
    this.#numbers = new Intl.NumberFormat(this.locale);
  }

  #plural(forms, count) {
    return forms[this.#plurals.select(count ?? 0)] ?? forms.other;
  }

  #written(value) {
    return typeof value === "number" ? this.number(value) : `${value}`;
  }

  #read() {
    try {
      return this.#storage?.getItem(STORED_AS) ?? "";
    } catch {
      return "";
    }
  }

  #write(language) {
    try {
      this.#storage?.setItem(STORED_AS, language);
    } catch {
      // Full or forbidden: the choice holds until the page is left.
    }
  }
}

/** The words of all languages, for what somebody else may have written in another one. */
export const tables = TABLES;
