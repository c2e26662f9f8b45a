// The alert rules and how they stand.

import { Table } from "./elements.js";
import { unitOf } from "./units.js";

export class Alerts {
  #table;
  #told;
  #units;
  #words;
  #firing = null;

  /** `told` is read aloud when a rule begins or stops firing. */
  constructor(root, told, words, units) {
    this.#words = words;
    this.#units = units;
    this.#told = told;
    const columns = ["name", "state", "rule", "value", "since", "webhook"];
    this.#table = new Table(
      root,
      words.say("alerts.title"),
      columns.map((key) => [key, words.say(`alerts.${key}`)]),
      words.say("alerts.none"),
    );
  }

  /** How many fire. */
  get firing() {
    return this.#firing?.size ?? 0;
  }

  show(alerts) {
    this.#table.show(
      alerts.map((alert) => ({
        id: alert.name,
        state: alert.state,
        cells: [
          alert.name,
          this.#words.say(`alerts.state.${alert.state}`),
          this.#rule(alert),
          this.#units.write(alert.value, unitOf(alert.figure)),
          this.#words.time(new Date(alert.since)),
          this.#webhook(alert),
        ],
      })),
    );
    this.#announce(new Set(alerts.filter((one) => one.state === "firing").map((one) => one.name)));
  }

  #rule({ figure, above, below, seconds }) {
    const bound = this.#units.write(above ?? below, unitOf(figure));
    const beyond = this.#words.say(above === null ? "alerts.below" : "alerts.above", {
      figure,
      bound,
    });
    if (seconds === 0) return beyond;
    return this.#words.say("alerts.for", { beyond, time: this.#units.duration(seconds * 1000) });
  }

  #webhook({ webhook, untold }) {
    if (!webhook) return "–";
    if (untold === 0) return this.#words.say("alerts.set");
    return this.#words.say("alerts.untold", { count: untold });
  }

  #announce(firing) {
    const before = this.#firing ?? new Set();
    const begun = [...firing].filter((name) => !before.has(name));
    const over = [...before].filter((name) => !firing.has(name));
    const say = (key) => (name) => this.#words.say(key, { name });
    const news = [...begun.map(say("alerts.begun")), ...over.map(say("alerts.over"))];
    if (news.length > 0) this.#told.textContent = news.join(" ");
    this.#firing = firing;
  }
}
