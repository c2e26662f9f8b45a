/**
 * Locks among the tabs of a browser by messages, where there are no Web Locks: on pages that come
 * neither by HTTPS nor from this machine.
 *
 * Who wants a lock asks all tabs, and has it when none objects for a while. Those that hold it
 * object, and of two that ask at the same time the one with the smaller id. A tab that was put to
 * sleep, or is too busy to hear the question, may so lose what it holds: what these locks guard
 * has to bear that, if seldom.
 */

const CHANNEL = 'parlance.locks';
/** The longest that a tab is expected to be busy. */
const ASK_MS = 250;
/** A tab that was closed does not say that it lets go. */
const LOOK_MS = 1000;

/** Of `navigator.locks`, what the SDK uses: `request` of exclusive locks, waiting or `ifAvailable`. */
export class TabLocks {
  #channel = null;
  #open;
  #askMs;
  #id = crypto.getRandomValues(new BigUint64Array(1))[0].toString(16).padStart(16, '0');
  /** What this tab holds or asks for, by key: {isHeld, settle}. */
  #claims = new Map();
  #waiting = new Set();

  /** `open`: makes the channel to the other tabs; `askMs`: how long they have to object. */
  constructor({ open = () => new BroadcastChannel(CHANNEL), askMs = ASK_MS } = {}) {
    this.#open = open;
    this.#askMs = askMs;
  }

  /** As of `LockManager`: runs `work` with the lock, or with null if it is taken and not waited for. */
  async request(key, ...given) {
    const work = given.at(-1);
    const isPatient = given.length === 1 || !given[0].ifAvailable;
    while (!(await this.#claim(key))) {
      if (!isPatient) return work(null);
      await this.#change();
    }
    try {
      return await work({ name: key });
    } finally {
      this.#claims.delete(key);
      this.#tell({ free: key });
      this.#wake();
    }
  }

  /** Hear and say nothing more: what is held is free for others. */
  close() {
    this.#channel?.close();
    this.#wake();
  }

  #claim(key) {
    if (this.#claims.has(key)) return Promise.resolve(false);
    return new Promise((resolve) => {
      const settle = (isHeld) => {
        clearTimeout(timer);
        claim.isHeld = isHeld;
        if (!isHeld) this.#claims.delete(key);
        resolve(isHeld);
      };
      const timer = setTimeout(settle, this.#askMs, true);
      const claim = { isHeld: false, settle };
      this.#claims.set(key, claim);
      this.#tell({ ask: key, by: this.#id });
    });
  }

  #tell(said) {
    if (this.#channel === null) {
      this.#channel = this.#open();
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    this.#channel.postMessage(said);
  }

  #hear({ ask, by, held, to, free }) {
    const claim = this.#claims.get(ask ?? held);
    if (free !== undefined) this.#wake();
    else if (claim === undefined) return;
    else if (ask !== undefined && (claim.isHeld || this.#id < by)) this.#tell({ held: ask, to: by });
    else if (!claim.isHeld && (ask !== undefined || to === this.#id)) claim.settle(false);
  }

  /** Until something was let go, or it is time to look again. */
  #change() {
    return new Promise((resolve) => {
      const timer = setTimeout(() => wake(), LOOK_MS);
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      this.#waiting.add(wake);
    });
  }

  #wake() {
    for (const wake of [...this.#waiting]) wake();
  }
}
