// Figures as people read them.

const UNITS = [
  [/_ms$/, "ms"],
  [/_bytes$/, "bytes"],
  [/_hit_rate$/, "share"],
  [/_percent$/, "percent"],
  [/^bytes_out_per_s$/, "bytes_per_s"],
  [/_per_s$/, "per_s"],
];

/** The unit of a figure of the sampler, by its name. */
export function unitOf(figure) {
  return UNITS.find(([pattern]) => pattern.test(figure))?.[1] ?? "count";
}

/** Writes figures in the language of `words`. */
export class Units {
  #words;

  constructor(words) {
    this.#words = words;
  }

  write(value, unit) {
    switch (unit) {
      case "ms":
        return this.duration(value);
      case "bytes":
        return this.#bytes(value);
      case "bytes_per_s":
        return this.#words.say("unit.per_s", { value: this.#bytes(value) });
      case "share":
        return this.#words.say("unit.percent", { value: this.#number(value * 100, 1) });
      case "percent":
        return this.#words.say("unit.percent", { value: this.#number(value, 1) });
      case "per_s":
        return this.#words.say("unit.per_s", { value: this.#number(value, value < 10 ? 1 : 0) });
      default:
        return this.#number(value, 1);
    }
  }

  /** A time in milliseconds, with the unit that keeps it short. */
  duration(ms) {
    if (ms < 1000) return this.#words.say("unit.ms", { value: this.#number(ms, ms < 10 ? 1 : 0) });
    const seconds = ms / 1000;
    if (seconds < 600) {
      return this.#words.say("unit.s", { value: this.#number(seconds, seconds < 10 ? 1 : 0) });
    }
    return this.#words.say("unit.min", { value: this.#number(seconds / 60, 0) });
  }

  #bytes(value) {
    const step = value < 1024 ? 0 : Math.min(3, Math.floor(Math.log2(value) / 10));
    const name = ["B", "KiB", "MiB", "GiB"][step];
    const part = value / 1024 ** step;
    return `${this.#number(part, step > 0 && part < 100 ? 1 : 0)} ${name}`;
  }

  #number(value, digits) {
    const options = { maximumFractionDigits: digits };
    return new Intl.NumberFormat(this.#words.locale, options).format(value);
  }
}
