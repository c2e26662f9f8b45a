// The AI answers: those that run, with a way to stop each, and the last that ended.

import { Failed } from "./api.js";
import { make, Table, write } from "./elements.js";

const PAUSE_MS = 2_000;
const SHOWN = 50;

const STATES = new Set([
  ...["preparing", "queued", "running", "done"],
  ...["stop", "length", "cancelled", "filtered", "error", "interrupted"],
]);

const RUNNING = ["persona", "state", "model", "age", "tokens", "stop"];
const RECENT = ["at", "persona", "state", "model", "duration", "first", "tokens"];

export class Turns {
  #api;
  #words;
  #units;
  #parts;
  #running;
  #recent;
  #ended = [];
  #asking = false;
  #asked = 0;
  #busy = true;

  /** `parts` are the elements {running, recent, told, seen}. */
  constructor(parts, api, words, units) {
    this.#api = api;
    this.#words = words;
    this.#units = units;
    this.#parts = parts;
    const titles = (keys) => keys.map((key) => [key, words.say(`turns.${key}`)]);
    const none = words.say("turns.none");
    this.#running = new Table(parts.running, words.say("turns.running"), titles(RUNNING), none);
    this.#recent = new Table(parts.recent, words.say("turns.recent"), titles(RECENT), none);
  }

  /** Take what a frame says of answers, and ask for those that run while there are any. */
  take(frame) {
    this.#note(frame.recent_requests);
    const { answers_running: running, answers_queued: queued } = frame.point;
    const busy = running + queued > 0;
    // Once more after the last one has ended, so that it leaves the list.
    if (busy || this.#busy) this.refresh();
    this.#busy = busy;
  }

  /** Ask now, unless that was a moment ago or the page is not looked at. */
  async refresh() {
    if (this.#asking || document.hidden || Date.now() - this.#asked < PAUSE_MS) return;
    this.#asking = true;
    try {
      const page = await this.#api.turns();
      this.#note(page.recent);
      this.#running.show(page.running.map((turn) => this.#runningRow(turn)));
      const seen = [page.operator ? "turns.seen_all" : "turns.seen_own"];
      if (page.cursor > 0) seen.push("turns.seen_first");
      write(this.#parts.seen, seen.map((key) => this.#words.say(key)).join(" "));
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      this.#busy = true; // the connection's own notice says what is wrong; ask again with the next
    } finally {
      this.#asked = Date.now();
      this.#asking = false;
    }
  }

  #note(ended) {
    const known = new Set(this.#ended.map((turn) => turn.sid));
    const fresh = ended.filter((turn) => !known.has(turn.sid));
    if (fresh.length === 0) return;
    this.#ended = [...fresh, ...this.#ended].sort((a, b) => b.at - a.at).slice(0, SHOWN);
    this.#recent.show(this.#ended.map((turn) => this.#recentRow(turn)));
  }

  #runningRow(turn) {
    const cells = [
      turn.persona_name || this.#words.say("turns.no_persona"),
      this.#state(turn.state),
      modelOf(turn),
      this.#units.duration(turn.age_ms),
      this.#units.write(turn.tokens, "count"),
      () => this.#stopButton(turn),
    ];
    return { id: turn.sid, state: turn.state, cells };
  }

  #recentRow(turn) {
    const failed = turn.code ? ` (${turn.code})` : "";
    const cells = [
      this.#words.time(new Date(turn.at)),
      turn.persona || this.#words.say("turns.no_persona"),
      this.#state(turn.status) + failed,
      modelOf(turn),
      this.#units.duration(turn.duration_ms),
      turn.ttft_ms > 0 ? this.#units.duration(turn.ttft_ms) : "–",
      this.#words.say("turns.in_out", { in: turn.tokens_in, out: turn.tokens_out }),
    ];
    return { id: turn.sid, state: turn.status, cells };
  }

  #state(state) {
    return STATES.has(state) ? this.#words.say(`turns.state.${state}`) : state;
  }

  #stopButton(turn) {
    const name = turn.persona_name || this.#words.say("turns.no_persona");
    const button = make("button", {
      type: "button",
      textContent: this.#words.say("action.stop"),
      "aria-label": this.#words.say("turns.stop_named", { name }),
    });
    button.addEventListener("click", () => this.#cancel(turn.sid, button));
    return button;
  }

  async #cancel(sid, button) {
    // Not `disabled`: that would take the focus away from who came by keyboard.
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    const status = await this.#api.cancel(sid).then(
      () => 200,
      (error) => error.status,
    );
    const said = { 200: "stopped", 404: "over", 401: "refused", 403: "refused" }[status] ?? "failed";
    this.#parts.told.textContent = this.#words.say(`turns.told.${said}`);
    if (said === "failed") button.setAttribute("aria-disabled", "false");
    this.#asked = 0;
    await this.refresh();
  }
}

function modelOf({ provider, model }) {
  return [provider, model].filter(Boolean).join(" / ") || "–";
}
