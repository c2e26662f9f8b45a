import assert from 'node:assert/strict';
import { test } from 'node:test';

import { makeCid } from '../outbox.js';
import { WebState, WebTokens } from '../storage.js';
import { TabLocks } from '../tab_locks.js';

const ASK_MS = 25;

/** The channels of one browser's tabs: what one says, all others hear a moment later. */
class Browser {
  #channels = new Set();

  /** A tab's locks; they close with the test. */
  tab(t) {
    const locks = new TabLocks({ open: () => this.#open(), askMs: ASK_MS });
    t.after(() => locks.close());
    return locks;
  }

  #open() {
    const channel = {
      onmessage: null,
      postMessage: (data) => {
        for (const other of this.#channels) {
          if (other !== channel) setImmediate(() => this.#channels.has(other) && other.onmessage({ data }));
        }
      },
      close: () => this.#channels.delete(channel),
    };
    this.#channels.add(channel);
    return channel;
  }
}

class FakeStorage {
  #kept = new Map();

  getItem = (key) => this.#kept.get(key) ?? null;
  setItem = (key, value) => this.#kept.set(key, value);
  removeItem = (key) => this.#kept.delete(key);
}

/** Take a lock and keep it; resolves with the function that lets it go, or null. */
function hold(locks, key, options = { ifAvailable: true }) {
  return new Promise((resolve) => {
    locks.request(key, options, (lock) => {
      if (lock === null) return resolve(null);
      return new Promise((release) => resolve(release));
    });
  });
}

test('a lock is held by one tab at a time, and free again when it lets go', async (t) => {
  const browser = new Browser();
  const [first, second] = [browser.tab(t), browser.tab(t)];
  const release = await hold(first, 'slot');
  assert.equal(await hold(second, 'slot'), null);
  assert.equal(await hold(first, 'slot'), null, 'nor twice by the same tab');
  assert.notEqual(await hold(second, 'other'), null, 'and other locks are others');
  release();
  await new Promise(setImmediate);
  assert.notEqual(await hold(second, 'slot'), null);
});

test('of tabs that ask at the same time, one gets the lock', async (t) => {
  const browser = new Browser();
  const tabs = Array.from({ length: 8 }, () => browser.tab(t));
  const held = await Promise.all(tabs.map((locks) => hold(locks, 'slot')));
  assert.equal(held.filter((release) => release !== null).length, 1);
});

test('who waits for a lock gets it, and no two work at once', async (t) => {
  const browser = new Browser();
  let working = 0;
  let most = 0;
  const work = async () => {
    working += 1;
    most = Math.max(most, working);
    await new Promise(setImmediate);
    working -= 1;
    return 'done';
  };
  const tabs = Array.from({ length: 4 }, () => browser.tab(t));
  const done = await Promise.all(tabs.map((locks) => locks.request('tokens', work)));
  assert.deepEqual(done, ['done', 'done', 'done', 'done']);
  assert.equal(most, 1);
});

test('work that fails lets go of its lock', async (t) => {
  const locks = new Browser().tab(t);
  await assert.rejects(locks.request('slot', () => Promise.reject(new Error('no'))), /no/);
  assert.notEqual(await hold(locks, 'slot'), null);
});

test('what a tab held that was closed without a word is free', async (t) => {
  const browser = new Browser();
  const [closed, waiting] = [browser.tab(t), browser.tab(t)];
  await hold(closed, 'slot');
  const got = waiting.request('slot', () => 'mine');
  await new Promise((resolve) => setTimeout(resolve, 2 * ASK_MS));
  closed.close();
  assert.equal(await got, 'mine');
});

test('tabs without Web Locks are devices of their own and take over what closed ones left', async (t) => {
  const browser = new Browser();
  const localStorage = new FakeStorage();
  const open = () => {
    const locks = browser.tab(t);
    return { locks, state: new WebState('chat', { localStorage, locks }) };
  };
  const tabs = [open(), open()];
  const [{ device }, { device: another }] = await Promise.all(tabs.map(({ state }) => state.load()));
  assert.notDeepEqual(device, another);
  const unsent = [{ conv: 1, cid: makeCid(), kind: 0, text: 'hi', x: null, created: 1 }];
  await tabs[0].state.save({ device, unsent });
  tabs[0].locks.close();
  const { device: again, unsent: found } = await open().state.load();
  assert.deepEqual(again, device, 'a new tab is no new device');
  assert.deepEqual(found, unsent);
});

test('where pages may keep nothing, a sign-in and a device last as long as the page', async (t) => {
  const refused = { get: () => { throw new Error('SecurityError'); }, configurable: true };
  Object.defineProperty(globalThis, 'localStorage', refused);
  t.after(() => delete globalThis.localStorage);
  const { WebState: State, WebTokens: Tokens } = await import('../storage.js?refused');
  const [tokens, state] = [new Tokens('chat'), new State('chat')];
  assert.equal(tokens.load(), null);
  tokens.save({ access_token: 'token 1' });
  assert.deepEqual(new Tokens('chat').load(), { access_token: 'token 1' });
  assert.equal(await tokens.exclusive(async () => 'done'), 'done');
  assert.equal((await state.load()).device.length, 16);
});

test('tokens are renewed by one tab at a time', async (t) => {
  const browser = new Browser();
  const localStorage = new FakeStorage();
  const stores = [0, 1].map(() => new WebTokens('chat', { localStorage, locks: browser.tab(t) }));
  const seen = [];
  const renew = (store) => store.exclusive(async () => {
    seen.push(store.load()?.access_token ?? 'none');
    store.save({ access_token: 'new' });
  });
  await Promise.all(stores.map(renew));
  assert.deepEqual(seen, ['none', 'new']);
});
