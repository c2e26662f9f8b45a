// The figures of this second, in words and numbers.

import { make, write } from "./elements.js";

const point = (name) => (frame) => frame.point[name];
const total = (name) => (frame) => frame.statistics[name];

/**
 * What is shown: a key of the words, the figure with its unit, and what is told below it. The
 * totals are those of /metrics.
 */
const TILES = [
  ["connections", point("connections"), "count", "signed_in", point("sessions")],
  ["messages", point("messages_per_s"), "per_s", "total", total("total_messages")],
  ["requests", point("requests_per_s"), "per_s", "total", total("total_requests")],
  ["errors", point("errors_per_s"), "per_s", "total", total("total_errors")],
  ["mean", total("average_response_time_ms"), "ms", "window", null],
  ["p50", total("p50_response_time_ms"), "ms", "window", null],
  ["p95", total("p95_response_time_ms"), "ms", "window", null],
  ["p99", total("p99_response_time_ms"), "ms", "window", null],
  ["running", point("answers_running"), "count", "ended", total("total_answers")],
  ["queued", point("answers_queued"), "count", "failed", total("total_answers_failed")],
  ["tokens", point("tokens_per_s"), "per_s", "total", total("total_tokens")],
  ["pieces", point("pieces_per_s"), "per_s", "as_written", null],
  ["hits", total("cache_hit_rate"), "share", "memories", point("memory_hit_rate")],
  ["lag", point("loop_lag_ms"), "ms", "writes", point("store_queue")],
  ["memory", (frame) => frame.memory_usage.rss_bytes, "bytes", "unread", point("outbox_bytes")],
  ["cpu", (frame) => frame.cpu_usage, "percent", "viewers", total("viewers")],
];
const DETAIL_UNITS = { memories: "share", unread: "bytes" };

export class Figures {
  #tiles;
  #units;
  #words;

  constructor(root, words, units) {
    this.#words = words;
    this.#units = units;
    this.#tiles = TILES.map(([name, read, unit, detail, more]) => {
      const value = make("data", { className: "value", "data-figure": name });
      const below = make("data", { className: "detail", "data-figure": `${name}.${detail}` });
      const title = make("dt", { textContent: words.say(`figure.${name}`) });
      return { read, unit, detail, more, value, below, title };
    });
    root.replaceChildren(
      ...this.#tiles.map(({ title, value, below }) =>
        make("div", {}, title, make("dd", {}, value, below)),
      ),
    );
  }

  show(frame) {
    for (const { read, unit, detail, more, value, below } of this.#tiles) {
      const number = read(frame);
      value.value = number;
      write(value, this.#units.write(number, unit));
      const told = more === null ? 0 : more(frame);
      below.value = told;
      const said = this.#units.write(told, DETAIL_UNITS[detail] ?? "count");
      write(below, this.#words.say(`detail.${detail}`, { value: said }));
    }
  }
}
