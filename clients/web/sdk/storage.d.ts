import type { Unsent } from "./outbox.js";
import type { User } from "./messages.js";

/** What a client keeps between two starts. */
export interface Saved {
  /** 16 random bytes that name this installation; the server keeps one connection of each. */
  device: Uint8Array;
  /** Messages without an acknowledgement. */
  unsent: Unsent[];
}

/** Where a client keeps what must outlive it. */
export interface State {
  /** False when `save` needs not be waited for before a message is sent. */
  readonly durable: boolean;
  load(): Promise<Saved>;
  save(saved: Saved): Promise<void>;
  close(): Promise<void>;
}

export declare function encodeSaved(saved: Saved): string;
export declare function decodeSaved(text: string | null): Saved | null;

/** Nothing outlives the process; every start is a new device. */
export declare class MemoryState implements State {
  durable: boolean;
  load(): Promise<Saved>;
  save(saved: Saved): Promise<void>;
  close(): Promise<void>;
}

/** The part of a browser's storage that is used. */
export interface TextStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** The Web Locks of a browser, as far as they are used; `TabLocks` is another kind. */
export interface Locks {
  request(key: string, work: () => unknown): Promise<unknown>;
  request(
    key: string,
    options: { ifAvailable: boolean },
    work: (lock: unknown) => unknown,
  ): Promise<unknown>;
}

/**
 * For browsers: in `localStorage`, one slot per tab; `load` throws `StateInUse` in a ninth tab.
 * Use a name for each account.
 */
export declare class WebState implements State {
  constructor(name?: string, places?: { localStorage: TextStorage; locks: Locks });
  readonly durable: true;
  load(): Promise<Saved>;
  save(saved: Saved): Promise<void>;
  close(): Promise<void>;
}

/** For Node: one file; `load` throws `StateInUse` while another process has it. */
export declare class FileState implements State {
  constructor(path: string);
  readonly durable: true;
  load(): Promise<Saved>;
  save(saved: Saved): Promise<void>;
  close(): Promise<void>;
}

/** What the account service answers to every sign-in. */
export interface Tokens {
  user: User;
  tenant: number;
  /** For `hello`; until `expires_ms` (Unix milliseconds). */
  access_token: string;
  expires_ms: number;
  /** Good for one refresh; as good as a password. */
  refresh_token: string;
  /** Of the refresh under way, so that a lost answer can be asked for again. */
  attempt: string;
}

/** Where an `Account` keeps its tokens. */
export interface TokenStore {
  load(): Tokens | null;
  save(tokens: Tokens | null): void;
  /** Run `work` while nobody else who shares the tokens does. */
  exclusive<T>(work: () => Promise<T>): Promise<T>;
}

export declare class MemoryTokens implements TokenStore {
  load(): Tokens | null;
  save(tokens: Tokens | null): void;
  exclusive<T>(work: () => Promise<T>): Promise<T>;
}

/** In `localStorage`, shared by the tabs of a browser. */
export declare class WebTokens implements TokenStore {
  constructor(name?: string, places?: { localStorage: TextStorage; locks: Locks });
  load(): Tokens | null;
  save(tokens: Tokens | null): void;
  exclusive<T>(work: () => Promise<T>): Promise<T>;
}
