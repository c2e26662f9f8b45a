// Points of the figures over time, as columns: what charts are drawn from.

/** The newest `capacity` points of one kind, oldest first. */
export class Points {
  #columns = new Map();
  #capacity;

  constructor(capacity) {
    this.#capacity = capacity;
  }

  get length() {
    return this.#columns.get("time")?.length ?? 0;
  }

  /** Numbers of a figure, or `time` in Unix seconds. */
  of(figure) {
    return this.#columns.get(figure) ?? [];
  }

  /** Begin anew with what the server keeps: rows in the order of `fields`. */
  reset({ fields, points }) {
    const rows = points.slice(-this.#capacity);
    this.#columns = new Map(fields.map((name, at) => [name, rows.map((row) => row[at])]));
  }

  /** Take one more, {time, ...}; what is not newer than the newest is known already. */
  add(point) {
    if (this.length > 0 && point.time <= this.of("time").at(-1)) return;
    for (const [name, value] of Object.entries(point)) {
      if (!this.#columns.has(name)) this.#columns.set(name, []);
      const column = this.#columns.get(name);
      column.push(value);
      if (column.length > this.#capacity) column.shift();
    }
  }
}
