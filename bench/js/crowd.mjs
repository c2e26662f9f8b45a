/**
 * Some guests of bench.smoke, with clients of the JavaScript SDK (bench/smoke_js.py starts it).
 * Every line that comes in is a JSON object whose `do` names an action, every line that goes out
 * is {result} or {error}, in order. They do what the guests of bench/smoke.py do.
 */

import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import { Client, Link, ServerError, toHex } from '../../clients/web/sdk/client.js';

const TIMING = { backoff: 300, backoffMax: 3_000, firstRetry: 500 };
const ONLINE_WITHIN_MS = 60_000;
const SAYINGS = ['hello', 'how are you?', '今天怎么样？', 'what do you think about tea', '🙂 ok'];

const guests = [];

/** Uniform numbers in [0, 1) that are the same for the same seed (mulberry32). */
function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One client, and what it saw and did. */
class Guest {
  constructor({ url, token, convs, seed }) {
    this.convs = convs;
    this.random = chance(seed);
    this.client = new Client(url, async () => token, {
      timing: TIMING,
      random: this.random,
      agent: 'smoke/bench.js',
    });
    this.acks = [];
    this.counts = {};
    this.newest = new Map();
    this.streamed = new Map();
    this.loadingHistory = false;
  }

  count(what, times = 1) {
    if (times) this.counts[what] = (this.counts[what] ?? 0) + times;
  }

  /** Check the order in which messages appear and the text of answers grows; count the rest. */
  async watch() {
    for await (const event of this.client.events()) {
      if (event.type === 'messageAdded') this.note(event);
      else if (event.type === 'convReset') {
        this.newest.delete(event.conv);
        this.count('resets');
      } else if (event.type === 'streamText') this.follow(event);
      else if (event.type === 'streamEnded') {
        this.streamed.delete(event.sid);
        this.count('answers seen');
      } else if (event.type === 'lagged') this.count('lagged');
    }
  }

  note({ conv, msg }) {
    this.count('messages seen');
    const newest = this.newest.get(conv) ?? 0;
    if (!this.loadingHistory && msg.seq <= newest) this.count('out of order');
    this.newest.set(conv, Math.max(msg.seq, newest));
  }

  follow({ sid, part, off, text }) {
    if (!this.streamed.has(sid)) this.streamed.set(sid, new Map());
    const sizes = this.streamed.get(sid);
    if (off !== (sizes.get(part) ?? 0)) this.count('answers with holes');
    sizes.set(part, off + Buffer.byteLength(text));
  }

  async talk(until, rate) {
    await sleep((this.random() * 1_000) / rate);
    while (performance.now() < until) {
      const choice = this.random();
      if (choice < 0.85 || this.acks.length === 0) this.post();
      else await this.change(choice > 0.95);
      await sleep((-Math.log(1 - this.random()) * 1_000) / rate);
    }
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  post() {
    const text = `${this.pick(SAYINGS)} #${Math.floor(this.random() * 2 ** 32).toString(16)}`;
    const outgoing = this.client.post(this.pick(this.convs), text);
    this.count('sent');
    outgoing.acknowledged.then(
      ({ conv, seq, dup }) => {
        this.acks.push({ conv, cid: toHex(outgoing.unsent.cid), seq });
        this.count('repeats recognised', Number(dup));
      },
      (error) => {
        if (error instanceof ServerError) this.count(`refused ${error.code}`);
      },
    );
  }

  async change(recall) {
    const { conv, seq } = this.pick(this.acks);
    try {
      if (recall) await this.client.recall(conv, seq);
      else await this.client.edit(conv, seq, `edited ${this.random().toString(16)}`);
      this.count(recall ? 'recalls' : 'edits');
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      this.count(`change refused ${error.code}`);
    }
  }

  /** True while something is under way. */
  get busy() {
    const { client } = this;
    return client.unsent.length > 0 || client.feeds.syncing || client.link !== Link.ONLINE;
  }

  /** Page back to the first message of every conversation. */
  async loadAll() {
    this.loadingHistory = true;
    for (const conv of this.convs) {
      for (;;) {
        const anchor = this.client.feeds.convs.get(conv)?.wholeFrom() ?? 0;
        if (anchor === 1) break;
        const page = await this.client.history(conv, anchor, { limit: 100 });
        if (!page.more) break;
      }
    }
  }

  report() {
    const views = this.convs.map((conv) => ({
      conv,
      rev: this.client.feeds.known(conv),
      rows: (this.client.feeds.convs.get(conv)?.list() ?? []).map(shown),
    }));
    return { views, acks: this.acks, counts: this.counts, connects: this.client.connects };
  }
}

/** What every member must see alike. */
function shown({ seq, rev, ts, sender, kind, text, x }) {
  return { seq, rev, ts, sender, kind, text, edited: x?.edited ?? 0, recalled: x?.recalled ?? 0 };
}

const ACTIONS = {
  async open({ invited }) {
    for (const one of invited) {
      const guest = new Guest(one);
      guests.push(guest);
      guest.watch();
      await guest.client.start();
    }
    await Promise.all(guests.map((guest) => guest.client.waitOnline(ONLINE_WITHIN_MS)));
  },

  async talk({ seconds, rate }) {
    const until = performance.now() + seconds * 1_000;
    await Promise.all(guests.map((guest) => guest.talk(until, rate)));
  },

  /** The revision of each conversation, null while clients differ or are busy. */
  state() {
    const known = {};
    for (const guest of guests) {
      if (guest.busy) return null;
      for (const conv of guest.convs) {
        const rev = guest.client.feeds.known(conv);
        known[conv] ??= rev;
        if (known[conv] !== rev) return null;
      }
    }
    return known;
  },

  async load() {
    await Promise.all(guests.map((guest) => guest.loadAll()));
  },

  report({ number }) {
    return guests[number].report();
  },

  async close() {
    await Promise.all(guests.map((guest) => guest.client.close()));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await ACTIONS[name](given)) ?? null };
  } catch (error) {
    answer = { error: `${name}: ${error.stack ?? error}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
