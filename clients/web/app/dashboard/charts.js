// Charts of figures over time. The library is a plain script of the page: `uPlot`.

import { make, write } from "./elements.js";
import { unitOf } from "./units.js";

const { uPlot } = globalThis;
const HEIGHT = 170;
const AXIS_HEIGHT = 30;
const AXIS_WIDTH = 72;
const LABEL_SPACE = 75;
const STEPS = {
  bytes: Array.from({ length: 40 }, (_, at) => 2 ** at),
  count: Array.from({ length: 30 }, (_, at) => [1, 2, 5][at % 3] * 10 ** Math.floor(at / 3)),
};
const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3]]; // colour alone does not tell lines apart
const CHARTS = [
  ["times", ["p50_ms", "mean_ms", "p95_ms", "p99_ms"]],
  ["traffic", ["messages_per_s", "requests_per_s", "errors_per_s"]],
  ["connections", ["connections", "sessions"]],
  ["answers", ["answers_running", "answers_queued"]],
  ["tokens", ["tokens_per_s", "pieces_per_s"]],
  ["cache", ["conversation_hit_rate", "memory_hit_rate"]],
  ["lag", ["loop_lag_ms"]],
  ["cpu", ["cpu_percent"]],
  ["memory", ["rss_bytes"]],
];

/** One chart: its lines, what they are called, and the values where one points or now. */
class Chart {
  #figures;
  #lines = [];
  #note;
  #plot = null;
  #points = null;
  #root;
  #told;
  #units;
  #words;

  constructor(name, figures, words, units) {
    this.#figures = figures;
    this.#words = words;
    this.#units = units;
    this.name = words.say(`chart.${name}`);
    const legend = make("ul", { className: "legend" });
    figures.forEach((figure, at) => {
      const swatch = make("span", { className: `swatch line-${at}` });
      const value = make("data");
      legend.append(make("li", {}, swatch, `${words.say(`field.${figure}`)} `, value));
      this.#lines.push({ figure, swatch, value });
    });
    this.#root = make("div", { className: "plot", role: "img", tabIndex: 0 });
    this.#note = make("p", { className: "empty quiet", textContent: words.say("charts.empty") });
    this.#told = make("p", { className: "unseen", role: "status" });
    const title = make("figcaption", { textContent: this.name });
    const parts = [title, legend, this.#root, this.#note, this.#told];
    this.element = make("figure", { "data-chart": name }, ...parts);
    this.#root.addEventListener("keydown", (event) => this.#step(event));
    this.#root.addEventListener("blur", () => this.#point(null));
  }

  /** Draw these points, in a width of so many pixels. */
  draw(points, width) {
    this.#points = points;
    const { length } = points;
    this.#root.hidden = length < 2;
    this.#note.hidden = length >= 2;
    if (length < 2) {
      this.#values(length - 1);
      return;
    }
    this.#root.setAttribute("aria-label", this.#summary());
    const data = [points.of("time"), ...this.#figures.map((figure) => points.of(figure))];
    if (this.#plot === null) this.#plot = new uPlot(this.#options(width), data, this.#root);
    else this.#plot.setData(data);
    if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
    this.#values(this.#plot.cursor.idx ?? length - 1);
  }

  /** Take the drawing away; the next `draw` makes it anew, in the colours of then. */
  clear() {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #options(width) {
    const style = getComputedStyle(this.element);
    const quiet = { stroke: style.color, grid: { stroke: style.borderTopColor, width: 1 } };
    const ticks = { ...quiet.grid, size: 4 };
    const unit = unitOf(this.#figures[0]);
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "dashboard" } },
      hooks: { setCursor: [({ cursor }) => this.#values(cursor.idx ?? this.#points.length - 1)] },
      scales: { y: { range: (_, least, most) => bounds(unit, most) } },
      axes: [
        {
          ...quiet,
          ticks,
          size: AXIS_HEIGHT,
          space: LABEL_SPACE,
          values: (_, at, _axis, _space, step) => this.#times(at, step),
        },
        {
          ...quiet,
          ticks,
          size: AXIS_WIDTH,
          ...(Object.hasOwn(STEPS, unit) ? { incrs: STEPS[unit] } : {}),
          values: (_, at) => at.map((value) => this.#units.write(value, unit)),
        },
      ],
      series: [{}, ...this.#lines.map((line, at) => this.#series(line, at))],
    };
  }

  #series({ swatch }, at) {
    const stroke = getComputedStyle(swatch).color;
    return { stroke, width: 2, dash: DASHES[at], points: { show: false } };
  }

  #times(splits, step) {
    const options =
      step >= 86_400
        ? { month: "numeric", day: "numeric" }
        : { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
    const format = new Intl.DateTimeFormat(this.#words.locale, { ...options, hourCycle: "h23" });
    return splits.map((seconds) => format.format(seconds * 1000));
  }

  #values(at) {
    for (const { figure, value } of this.#lines) {
      const number = this.#points.of(figure)[at];
      value.value = number ?? "";
      write(value, number === undefined ? "–" : this.#units.write(number, unitOf(figure)));
    }
  }

  #summary() {
    const told = this.#figures.map((figure) => {
      const [now, most] = [this.#points.of(figure).at(-1), Math.max(...this.#points.of(figure))];
      const unit = unitOf(figure);
      return this.#words.say("chart.line", {
        name: this.#words.say(`field.${figure}`),
        now: this.#units.write(now, unit),
        most: this.#units.write(most, unit),
      });
    });
    return `${this.name}. ${told.join(" ")}`;
  }

  /** Move the pointer of the chart by keyboard, and tell what is there. */
  #step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (this.#plot === null || !Object.hasOwn(steps, event.key)) return;
    event.preventDefault();
    const last = this.#points.length - 1;
    const from = this.#plot.cursor.idx ?? last;
    this.#point(Math.max(0, Math.min(last, from + steps[event.key])));
  }

  #point(at) {
    if (this.#plot === null) return;
    const time = at === null ? 0 : this.#points.of("time")[at];
    const left = at === null ? -10 : this.#plot.valToPos(time, "x");
    this.#plot.setCursor({ left, top: 0 });
    const said = this.#lines.map(
      ({ figure, value }) => `${this.#words.say(`field.${figure}`)} ${value.textContent}`,
    );
    const when = this.#times([time], 1)[0];
    write(this.#told, at === null ? "" : `${when}: ${said.join(", ")}`);
  }
}

/** From zero to a little above the most; parts of a whole always to the whole. */
function bounds(unit, most) {
  if (unit === "share") return [0, 1];
  return [0, Math.max(most * 1.1, unit === "bytes" ? 1 << 20 : 1)];
}

/** All charts, of the same points. */
export class Charts {
  #charts;
  #frame = 0;
  #points = null;
  #root;
  #watch;

  constructor(root, words, units) {
    this.#root = root;
    this.#charts = CHARTS.map(([name, figures]) => new Chart(name, figures, words, units));
    root.replaceChildren(...this.#charts.map((chart) => chart.element));
    this.#watch = new ResizeObserver(() => this.#later());
    this.#watch.observe(root);
  }

  /** Draw these points with the next frame of the screen. */
  show(points) {
    this.#points = points;
    this.#later();
  }

  /** Draw anew: the colours have changed. */
  repaint() {
    for (const chart of this.#charts) chart.clear();
    this.#later();
  }

  close() {
    this.#watch.disconnect();
    cancelAnimationFrame(this.#frame);
    for (const chart of this.#charts) chart.clear();
  }

  #later() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const { element } = this.#charts[0];
    const style = getComputedStyle(element);
    const padding = Number.parseFloat(style.paddingLeft) + Number.parseFloat(style.paddingRight);
    const width = Math.floor(element.clientWidth - padding);
    if (this.#points === null || width <= 0) return;
    for (const chart of this.#charts) chart.draw(this.#points, width);
  }
}
