// Which time the charts show, and where its points come from.

import { Failed } from "./api.js";
import { Points } from "./points.js";

/** `bucket` of the server, how many points, and how often it is worth asking for them. */
export const RANGES = Object.freeze({
  live: { bucket: "1s", capacity: 30, everyMs: 0 },
  minutes: { bucket: "1s", capacity: 600, everyMs: 10_000 },
  day: { bucket: "1m", capacity: 1440, everyMs: 60_000 },
  month: { bucket: "1h", capacity: 720, everyMs: 600_000 },
});

/**
 * The points of the range that is chosen. Live points come with the frames; the history of the
 * server is asked for when a range is chosen, after the connection was lost, and as often as it
 * has something new. "change" says that there are other points, "failed" that they cannot be had.
 */
export class History extends EventTarget {
  #api;
  #asked = 0;
  #last = Object.freeze({ fields: [], points: [] });
  #request = 0;

  constructor(api) {
    super();
    this.#api = api;
    this.choose("live");
  }

  async choose(name) {
    this.name = name;
    this.points = new Points(RANGES[name].capacity);
    if (name === "live") this.points.reset(this.#last);
    this.dispatchEvent(new Event("change"));
    if (name !== "live") await this.#load();
  }

  /** Take the first frame of a connection: the last half minute. */
  async begin(frame) {
    this.#last = frame;
    await this.choose(this.name);
  }

  /** Take what a second was like. */
  async take(point) {
    this.#remember(point);
    // While the history is on its way, a single point would be taken for all there is.
    const whole = this.name === "live" || this.points.length > 0;
    const { bucket, everyMs } = RANGES[this.name];
    if (bucket === "1s" && whole) {
      this.points.add(point);
      this.dispatchEvent(new Event("change"));
    } else if (Date.now() - this.#asked >= everyMs) await this.#load();
  }

  #remember(point) {
    const { fields, points } = this.#last;
    const row = fields.map((name) => point[name]);
    this.#last = { fields, points: [...points, row].slice(-RANGES.live.capacity) };
  }

  async #load() {
    this.#asked = Date.now();
    const request = ++this.#request;
    const { name, points } = this;
    let found;
    try {
      found = await this.#api.history(RANGES[name].bucket);
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      if (request === this.#request) this.dispatchEvent(new Event("failed"));
      return;
    }
    // Another range was chosen meanwhile, or the same one again.
    if (request !== this.#request || points !== this.points) return;
    this.points.reset(found);
    this.dispatchEvent(new Event("change"));
  }
}
