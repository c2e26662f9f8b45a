// When a client reconnects, pings and syncs (docs/protocol.md §6). No I/O, no clock of its own.
// All times are milliseconds of one monotonic clock.

/** All spans of a client. Tests shorten them; others have no reason to. */
export const TIMING = Object.freeze({
  connect: 10_000,
  welcome: 15_000,
  heartbeat: 30_000,
  pong: 10_000,
  syncEvery: 600_000,
  backoff: 1_000,
  backoffMax: 60_000,
  firstRetry: 2_000,
  steady: 60_000,
  sendRetry: 500,
  sendRetryMax: 30_000,
  mark: 1_000,
  /** A timer that fires this much too late means that the machine slept or the tab was frozen. */
  asleep: 5_000,
});

/** The clock of the machine. Tests pass one of their own with the same three functions. */
export const SYSTEM_CLOCK = Object.freeze({
  now: () => performance.now(),
  set: (call, delay) => setTimeout(call, delay),
  clear: (timer) => clearTimeout(timer),
});

/** How long to wait before the next attempt: full jitter, so that a crowd spreads out. */
export class Backoff {
  /** random: gives uniform numbers in [0, 1). */
  constructor(timing, random) {
    this.timing = timing;
    this.random = random;
    this.attempt = 0;
    this.connectedAt = null;
    this.override = null;
  }

  /** The sign-in succeeded. */
  connected(now) {
    this.connectedAt = now;
  }

  /** A `bye` or `goaway` said when to come back; that replaces the next own wait. */
  told(retry, spread) {
    this.override = Math.max(0, retry) + this.random() * spread;
  }

  /** Return how long to wait now that the connection is lost or was refused. */
  wait(now) {
    const { timing } = this;
    if (this.connectedAt !== null && now - this.connectedAt >= timing.steady) this.attempt = 0;
    this.connectedAt = null;
    const attempt = this.attempt++;
    const told = this.override;
    this.override = null;
    // A server that keeps saying "now" while it fails must not be asked in a tight loop.
    if (told !== null && (told > 0 || attempt === 0)) return told;
    const ceiling = Math.min(timing.backoffMax, timing.backoff * 2 ** Math.min(attempt, 30));
    const wait = this.random() * ceiling;
    return attempt === 0 ? wait + this.random() * timing.firstRetry : wait;
  }
}

export const NOTHING = 'nothing';
export const PING = 'ping';
export const DEAD = 'dead';

/** When to ping, and when to take the connection for dead. */
export class Heartbeat {
  /**
   * interval: silence of our own after which a ping is due; fraction, in [0, 1): the first ping
   * waits this part of it.
   */
  constructor(interval, pong, now, fraction) {
    this.interval = interval;
    this.pong = pong;
    this.pingDue = now + interval * fraction;
    this.pongDue = null;
  }

  /** When `check` has something to do if nothing happens before. */
  get due() {
    return this.pongDue === null ? this.pingDue : Math.min(this.pingDue, this.pongDue);
  }

  /** Something was sent, which counts as a sign of life. */
  sent(now) {
    this.pingDue = now + this.interval;
  }

  /** Bytes came from the server, whatever they were. */
  received() {
    this.pongDue = null;
  }

  /**
   * Ask for a sign of life at once: the machine may have slept through the last one. A question
   * that is on its way is enough, or who doubts again and again would never be sure.
   */
  doubt(now) {
    if (this.pongDue !== null && now < this.pongDue) return;
    this.pongDue = null;
    this.pingDue = now;
  }

  /** Return NOTHING, PING (the caller sends one) or DEAD. */
  check(now) {
    if (this.pongDue !== null && now >= this.pongDue) return DEAD;
    if (now < this.pingDue) return NOTHING;
    this.pingDue = now + this.interval;
    if (this.pongDue === null) this.pongDue = now + this.pong;
    return PING;
  }
}
