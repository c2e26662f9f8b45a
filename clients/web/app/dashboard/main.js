// The operations page: joins the live figures with what shows them.

import { Words } from "../i18n.js";
import { Alerts } from "./alerts.js";
import { Api } from "./api.js";
import { Charts } from "./charts.js";
import { make, write } from "./elements.js";
import { Feed } from "./feed.js";
import { Figures } from "./figures.js";
import { History, RANGES } from "./ranges.js";
import { Turns } from "./turns.js";
import { Units } from "./units.js";
import { en } from "./words_en.js";
import { zh } from "./words_zh.js";

const KEPT_AS = "parlance.dashboard.key";
const { parlanceTheme } = globalThis; // ../theme.js, a plain script in the head
const byId = (id) => document.getElementById(id);

/** The key of this tab, which forgets it when it is closed; a browser may keep nothing at all. */
const kept = {
  get: () => attempt(() => sessionStorage.getItem(KEPT_AS)) ?? "",
  set: (key) => attempt(() => sessionStorage.setItem(KEPT_AS, key)),
  forget: () => attempt(() => sessionStorage.removeItem(KEPT_AS)),
};

function attempt(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

class Page {
  #words = new Words({ tables: { en, zh } });
  #units = new Units(this.#words);
  #api = new Api();
  #feed = new Feed(`${location.origin.replace(/^http/, "ws")}/ws/dashboard`);
  #history = new History(this.#api);
  #views = null;
  #frame = null;
  #state = { name: "out", reason: "" };

  start() {
    byId("theme").value = parlanceTheme.chosen;
    this.#listen();
    this.#draw();
    if (kept.get()) this.#open(kept.get());
  }

  #listen() {
    byId("sign-in").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#open(byId("key").value.trim());
    });
    byId("leave").addEventListener("click", () => this.#leave(""));
    byId("again").addEventListener("click", () => this.#feed.hurry());
    byId("language").addEventListener("click", () => {
      this.#words.choose(this.#words.language === "en" ? "zh" : "en");
    });
    this.#followTheme();
    globalThis.addEventListener("online", () => this.#feed.hurry());
    document.addEventListener("visibilitychange", () => this.#drawPoints());
    this.#words.addEventListener("change", () => this.#draw());
    this.#feed.addEventListener("state", ({ detail }) => this.#become(detail));
    this.#feed.addEventListener("frame", ({ detail }) => this.#take(detail));
    this.#history.addEventListener("change", () => this.#drawPoints());
    this.#history.addEventListener("failed", () => this.#sayCharts("charts.failed"));
    setInterval(() => this.#countDown(), 500);
  }

  /** Charts have the colours of when they were drawn. */
  #followTheme() {
    const repaint = () => this.#views.charts.repaint();
    byId("theme").addEventListener("change", ({ target }) => {
      parlanceTheme.choose(target.value);
      repaint();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    globalThis.addEventListener("storage", () => {
      byId("theme").value = parlanceTheme.chosen; // changed in another tab
      repaint();
    });
  }

  #open(key) {
    this.#api.key = key;
    kept.set(key);
    this.#feed.open(key);
  }

  #leave(reason) {
    kept.forget();
    this.#api.key = "";
    this.#feed.close();
    this.#frame = null;
    this.#draw(); // anew and empty: the next key may be one that sees less
    this.#become({ name: "out", reason });
    byId("key").value = "";
    byId("key").focus();
  }

  #take(frame) {
    if (frame.type === "history") {
      this.#history.begin(frame);
      return;
    }
    const first = this.#frame === null;
    this.#frame = frame;
    this.#history.take(frame.point);
    this.#drawFrame();
    if (!first) return;
    this.#drawState();
    // Who came by keyboard was on the form, which is gone now.
    if (document.activeElement === document.body) byId("figures-title").focus();
  }

  #become(state) {
    if (state.name === "refused") {
      this.#leave(state.reason);
      return;
    }
    this.#state = state;
    this.#drawState();
  }

  // what is drawn

  /** Draw everything, in the language of now. */
  #draw() {
    const { language, locale } = this.#words;
    document.documentElement.lang = locale;
    for (const element of document.querySelectorAll("[data-say]")) {
      write(element, this.#words.say(element.dataset.say));
    }
    byId("language").textContent = language === "en" ? "中文" : "English";
    byId("language").lang = language === "en" ? "zh-CN" : "en";
    this.#drawRanges();
    this.#views?.charts.close();
    const more = [this.#words, this.#units];
    const part = (name) => byId(name);
    const turns = {
      running: part("running"),
      recent: part("recent"),
      told: part("turns-told"),
      seen: part("turns-seen"),
    };
    this.#views = {
      figures: new Figures(byId("figures"), ...more),
      alerts: new Alerts(byId("alerts"), byId("alerts-told"), ...more),
      charts: new Charts(byId("charts"), ...more),
      turns: new Turns(turns, this.#api, ...more),
    };
    this.#drawPoints();
    this.#drawState();
    if (this.#frame !== null) this.#drawFrame();
  }

  #drawFrame() {
    this.#views.figures.show(this.#frame);
    this.#views.alerts.show(this.#frame.alerts);
    this.#views.turns.take(this.#frame);
    this.#drawTitle();
  }

  #drawTitle() {
    const firing = this.#frame === null ? 0 : this.#views.alerts.firing;
    const title = `${this.#words.say("page.title")} · Parlance`;
    const shown = firing > 0 ? `(${firing}) ${title}` : title;
    if (document.title !== shown) document.title = shown;
  }

  #drawPoints() {
    if (document.hidden || this.#views === null) return;
    this.#sayCharts("");
    this.#views.charts.show(this.#history.points);
  }

  #drawRanges() {
    const chosen = this.#history.name;
    const choices = Object.keys(RANGES).map((name) => {
      const radio = make("input", { type: "radio", name: "range", value: name });
      radio.checked = name === chosen;
      radio.addEventListener("change", () => this.#history.choose(name));
      return make("label", {}, radio, make("span", { textContent: this.#words.say(`range.${name}`) }));
    });
    const legend = byId("ranges").firstElementChild;
    byId("ranges").replaceChildren(legend, ...choices);
  }

  #drawState() {
    const { name, reason, crowded } = this.#state;
    byId("sign-in").hidden = name !== "out";
    byId("leave").hidden = name === "out";
    byId("board").hidden = this.#frame === null;
    byId("board").classList.toggle("stale", name !== "live");
    write(byId("state"), name === "out" ? "" : this.#words.say(`state.${name}`));
    byId("state").dataset.state = name;
    const notice = name === "waiting" ? (crowded ? "lost.crowded" : "lost.gone") : "";
    write(byId("connection-text"), notice ? this.#words.say(notice) : "");
    byId("connection").hidden = notice === "";
    write(byId("sign-in-error"), reason ? this.#words.say(`refused.${reason}`) : "");
    this.#drawTitle();
    this.#countDown();
  }

  #countDown() {
    if (this.#state.name !== "waiting") return;
    const left = Math.max(0, Math.ceil((this.#state.until - Date.now()) / 1000));
    write(byId("countdown"), this.#words.say("lost.again", { count: left }));
  }

  #sayCharts(key) {
    write(byId("charts-told"), key ? this.#words.say(key) : "");
  }
}

new Page().start();
