// The live figures: one WebSocket, opened again after growing random waits when it is lost.

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
const SILENCE_MS = 10_000; // there is a frame every second: without one for so long it is gone
const CLOSE_BASE = 4000; // protocol/codes.py
const REFUSED = new Map([
  [CLOSE_BASE + 200, "bad_key"],
  [CLOSE_BASE + 202, "bad_key"],
  [CLOSE_BASE + 301, "no_scope"],
]);
const CROWDED = CLOSE_BASE + 502;

/** How long to wait before try number `tries`: up to twice as long each time, half of it random. */
export function waitMs(tries, random = Math.random) {
  const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries);
  return longest * (0.5 + random() / 2);
}

/**
 * Shows what /ws/dashboard tells, from `open` to `close`:
 *
 * "frame"  a `history` or `realtime` message, as `detail`
 * "state"  {name: "connecting" | "live"}, {name: "waiting", until, crowded} with the time of the
 *          next try in milliseconds, or {name: "refused", reason: "bad_key" | "no_scope"}: over
 */
export class Feed extends EventTarget {
  #url;
  #key = null;
  #socket = null;
  #timer = 0;
  #tries = 0;
  #random;

  constructor(url, { random = Math.random } = {}) {
    super();
    this.#url = url;
    this.#random = random;
  }

  /** Begin, with a key. It goes into the first message, never into the address. */
  open(key) {
    this.close();
    this.#key = key;
    this.#tries = 0;
    this.#connect();
  }

  close() {
    this.#key = null;
    this.#drop();
  }

  /** Try at once, when it waits: the network is back, or the person asks. */
  hurry() {
    if (this.#key !== null && this.#socket === null) this.#connect();
  }

  #connect() {
    this.#drop();
    this.#tell({ name: "connecting" });
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#expect();
    socket.onopen = () => socket.send(JSON.stringify({ key: this.#key }));
    socket.onmessage = ({ data }) => this.#take(data);
    socket.onclose = ({ code }) => this.#lost(code);
  }

  #take(data) {
    const frame = JSON.parse(data);
    this.#expect();
    if (frame.type === "history") {
      this.#tries = 0;
      this.#tell({ name: "live" });
    }
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  /** Give the connection up when nothing comes; a computer that slept has a dead one. */
  #expect() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(0), SILENCE_MS);
  }

  #lost(code) {
    this.#drop();
    if (REFUSED.has(code)) {
      this.#key = null;
      this.#tell({ name: "refused", reason: REFUSED.get(code) });
      return;
    }
    const wait = waitMs(this.#tries++, this.#random);
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#tell({ name: "waiting", until: Date.now() + wait, crowded: code === CROWDED });
  }

  #drop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #tell(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}
