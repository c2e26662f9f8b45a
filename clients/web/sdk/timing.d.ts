/** All spans of a client, in milliseconds. */
export interface Timing {
  connect: number;
  welcome: number;
  heartbeat: number;
  pong: number;
  syncEvery: number;
  backoff: number;
  backoffMax: number;
  firstRetry: number;
  steady: number;
  sendRetry: number;
  sendRetryMax: number;
  mark: number;
  /** A timer that fires this much too late means that the machine slept. */
  asleep: number;
}

/** A monotonic clock in milliseconds, and its timers. */
export interface Clock {
  now(): number;
  set(call: () => void, delay: number): unknown;
  clear(timer: unknown): void;
}

export declare const TIMING: Readonly<Timing>;
export declare const SYSTEM_CLOCK: Readonly<Clock>;

/** How long to wait before the next attempt: full jitter, so that a crowd spreads out. */
export declare class Backoff {
  constructor(timing: Timing, random: () => number);
  connected(now: number): void;
  told(retry: number, spread: number): void;
  wait(now: number): number;
}

export declare const NOTHING: "nothing";
export declare const PING: "ping";
export declare const DEAD: "dead";

/** When to ping, and when to take the connection for dead. */
export declare class Heartbeat {
  constructor(interval: number, pong: number, now: number, fraction: number);
  get due(): number;
  sent(now: number): void;
  received(): void;
  doubt(now: number): void;
  check(now: number): "nothing" | "ping" | "dead";
}
