/** A clock that stands still until a test moves it. */

export class FakeClock {
  constructor() {
    this._now = 0;
    this._timers = new Set();
  }

  now = () => this._now;

  set = (call, delay) => {
    const timer = { due: this._now + delay, call };
    if (delay !== Infinity) this._timers.add(timer);
    return timer;
  };

  clear = (timer) => {
    this._timers.delete(timer);
  };

  /** Let time pass; calls what comes due on the way, in order. */
  advance(span) {
    const end = this._now + span;
    for (;;) {
      const [next] = [...this._timers].filter(({ due }) => due <= end).sort((a, b) => a.due - b.due);
      if (next === undefined) break;
      this._timers.delete(next);
      this._now = Math.max(this._now, next.due);
      next.call();
    }
    this._now = end;
  }
}

/** Let everything run that waits for nothing but its turn. */
export function settle() {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
