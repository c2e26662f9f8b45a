import type { Locks } from "./storage.js";

/** The part of a `BroadcastChannel` that is used. */
export interface Channel {
  onmessage: ((event: { data: unknown }) => void) | null;
  postMessage(said: unknown): void;
  close(): void;
}

/**
 * Locks among tabs for pages without Web Locks, which are those served neither by HTTPS nor from
 * this machine. A tab that the system put to sleep may lose what it holds.
 */
export declare class TabLocks implements Locks {
  constructor(options?: { open?: () => Channel; askMs?: number });
  request(key: string, work: () => unknown): Promise<unknown>;
  request(
    key: string,
    options: { ifAvailable: boolean },
    work: (lock: unknown) => unknown,
  ): Promise<unknown>;
  close(): void;
}
