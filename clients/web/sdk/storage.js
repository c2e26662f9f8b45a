/**
 * What outlives a client: its device id, the messages not yet acknowledged, and sign-in tokens.
 *
 * A state has `durable` (false: `save` needs not be waited for before a message is sent) and the
 * async methods `load() -> Saved`, `save(Saved)` and `close()`, where Saved is
 * {device: Uint8Array(16), unsent: [{conv, cid, kind, text, x, created}]}.
 */

import { StateInUse } from './events.js';
import { fromHex, toHex } from './outbox.js';
import { TabLocks } from './tab_locks.js';

const DEVICE_BYTES = 16;
const SLOTS = 8;
/** Tabs are processes of their own: `localStorage` goes from one to the other within this time. */
const SETTLE_MS = 150;

function fresh() {
  return { device: crypto.getRandomValues(new Uint8Array(DEVICE_BYTES)), unsent: [] };
}

/** Return the text that `decodeSaved` understands. */
export function encodeSaved({ device, unsent }) {
  const rows = unsent.map((item) => ({ ...item, cid: toHex(item.cid) }));
  return JSON.stringify({ device: toHex(device), unsent: rows });
}

/** Return what was saved, or null if the text is not such a state. */
export function decodeSaved(text) {
  try {
    const { device, unsent } = JSON.parse(text);
    const saved = {
      device: fromHex(device),
      unsent: unsent.map((item) => ({ ...item, cid: fromHex(item.cid) })),
    };
    return saved.device.length === DEVICE_BYTES ? saved : null;
  } catch {
    return null;
  }
}

/** Nothing outlives the process; every start is a new device. */
export class MemoryState {
  durable = false;
  #saved = fresh();

  async load() {
    return this.#saved;
  }

  async save(saved) {
    this.#saved = saved;
  }

  async close() {}
}

/** What a browser keeps for its person when it may keep nothing: it ends with the page. */
class PageStorage {
  #kept = new Map();

  getItem(key) {
    return this.#kept.get(key) ?? null;
  }

  setItem(key, value) {
    this.#kept.set(key, value);
  }

  removeItem(key) {
    this.#kept.delete(key);
  }
}

let found = null;

/** What the tabs of this browser share: {localStorage, locks}. */
function placesOfBrowser() {
  found ??= findPlaces();
  return found;
}

function findPlaces() {
  try {
    const { localStorage, navigator } = globalThis;
    return { localStorage, locks: navigator?.locks ?? new TabLocks() };
  } catch {
    // The person forbids pages to keep anything; then no tab has anything to do with another.
    const locks = { request: async (key, ...given) => given.at(-1)({ name: key }) };
    return { localStorage: new PageStorage(), locks };
  }
}

/**
 * For browsers: everything in `localStorage`, so that a reload loses nothing.
 *
 * Two tabs must not share a device id, or the server lets only one of them stay. So each tab takes
 * the first free of 8 slots, a part of the devices that a user may have, holds it by a lock, and
 * takes over what closed tabs left unsent. The locks are Web Locks; pages that are not served by
 * HTTPS or from this machine have none, and use `TabLocks`. Where pages may keep nothing, it all
 * lasts as long as the page.
 *
 * Use a name for each account: what one person left unsent must not be sent by another.
 */
export class WebState {
  durable = true;
  #name;
  #key = '';
  #release = () => {};
  #places;

  /** `places`: {localStorage, locks}, those of the browser if it is left out. */
  constructor(name = 'parlance', places = placesOfBrowser()) {
    this.#name = name;
    this.#places = places;
  }

  async load() {
    this.#key = await this.#claim();
    const saved = this.#read(this.#key) ?? fresh();
    const left = await this.#takeOver();
    saved.unsent.push(...left.flatMap(({ unsent }) => unsent));
    try {
      await this.save(saved);
    } catch {
      // Storage that is full or forbidden must not keep people from talking.
      return saved;
    }
    for (const { key, device } of left) this.#write(key, { device, unsent: [] });
    return saved;
  }

  async save(saved) {
    this.#write(this.#key, saved);
  }

  async close() {
    this.#release();
  }

  #read(key) {
    return decodeSaved(this.#places.localStorage.getItem(key));
  }

  #write(key, saved) {
    this.#places.localStorage.setItem(key, encodeSaved(saved));
  }

  /** What closed tabs left unsent; sending it twice is harmless, as it keeps its cids. */
  async #takeOver() {
    const { locks } = this.#places;
    const left = [];
    for (const key of this.#slots()) {
      if (key === this.#key || !this.#read(key)?.unsent.length) continue;
      await locks.request(key, { ifAvailable: true }, (lock) => {
        const saved = lock === null ? null : this.#read(key);
        if (saved !== null && saved.unsent.length > 0) left.push({ key, ...saved });
      });
    }
    return left;
  }

  #slots() {
    return Array.from({ length: SLOTS }, (_, slot) => `${this.#name}.state.${slot}`);
  }

  async #claim() {
    const { locks } = this.#places;
    for (const key of this.#slots()) {
      if (await this.#hold(locks, key)) return key;
    }
    throw new StateInUse(`${SLOTS} tabs are open already: close one and reload this page`);
  }

  #hold(locks, key) {
    return new Promise((resolve, reject) => {
      const taken = (lock) => {
        resolve(lock !== null);
        if (lock === null) return undefined;
        return new Promise((release) => {
          this.#release = release;
        });
      };
      locks.request(key, { ifAvailable: true }, taken).catch(reject);
    });
  }
}

/**
 * For Node: one file, replaced whole on every change and readable by its owner only.
 *
 * A message is on disk before it is sent for the first time, so a process that dies between "send"
 * and the acknowledgement sends it again at its next start, under the same cid. A file that
 * cannot be read is set aside and begun anew. Beside it lies `PATH.lock`, with the process that
 * uses it; one whose process has ended is taken over.
 */
export class FileState {
  durable = true;
  #path;
  #held = false;

  constructor(path) {
    this.#path = path;
  }

  /** @throws {StateInUse} another process holds the file */
  async load() {
    const { mkdir, readFile, rename } = await import('node:fs/promises');
    const { dirname } = await import('node:path');
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
    await this.#lock();
    const text = await readFile(this.#path, 'utf8').catch(absent);
    const found = text === null ? null : decodeSaved(text);
    if (found !== null) return found;
    if (text !== null) await rename(this.#path, `${this.#path}.broken`);
    const saved = fresh();
    await this.save(saved);
    return saved;
  }

  async save(saved) {
    const { open, rename } = await import('node:fs/promises');
    const next = `${this.#path}.new`;
    const file = await open(next, 'w', 0o600);
    try {
      await file.writeFile(encodeSaved(saved));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(next, this.#path);
  }

  async close() {
    if (!this.#held) return;
    this.#held = false;
    const { rm } = await import('node:fs/promises');
    await rm(`${this.#path}.lock`, { force: true });
  }

  async #lock() {
    const { readFile, rm, writeFile } = await import('node:fs/promises');
    const path = `${this.#path}.lock`;
    for (let attempt = 0; attempt < 2; attempt++) {
      try {
        await writeFile(path, String(process.pid), { flag: 'wx', mode: 0o600 });
        this.#held = true;
        return;
      } catch (error) {
        if (error.code !== 'EEXIST') throw error;
      }
      const owner = Number(await readFile(path, 'utf8').catch(absent));
      if (isRunning(owner)) break;
      await rm(path, { force: true });
    }
    throw new StateInUse(`${this.#path} is used by another running client`);
  }
}

function absent(error) {
  if (error.code === 'ENOENT') return null;
  throw error;
}

function isRunning(pid) {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Tokens of an `Account` in memory. */
export class MemoryTokens {
  #tokens = null;

  load() {
    return this.#tokens;
  }

  save(tokens) {
    this.#tokens = tokens;
  }

  exclusive(work) {
    return work();
  }
}

/** Tokens of an `Account` in `localStorage`, shared by the tabs of a browser. */
export class WebTokens {
  #key;
  #places;

  constructor(name = 'parlance', places = placesOfBrowser()) {
    this.#key = `${name}.tokens`;
    this.#places = places;
  }

  load() {
    try {
      return JSON.parse(this.#places.localStorage.getItem(this.#key));
    } catch {
      return null;
    }
  }

  save(tokens) {
    if (tokens === null) this.#places.localStorage.removeItem(this.#key);
    else this.#places.localStorage.setItem(this.#key, JSON.stringify(tokens));
  }

  /** Run `work` while no other tab does: a refresh token is good for one answer. */
  exclusive(work) {
    const { locks } = this.#places;
    return locks.request(this.#key, async () => {
      // What another tab has written is seen here a moment later than its lock is free.
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
      return work();
    });
  }
}
