import type { User } from "./messages.js";
import type { Tokens, TokenStore } from "./storage.js";

/**
 * One account's tokens; `account.token` is a client's token source. Everything that asks the server
 * throws `SignInFailed` (refused) or `Unreachable` (try again).
 */
export declare class Account {
  constructor(
    url: string,
    options?: { tokens?: TokenStore; fetch?: typeof fetch; now?: () => number },
  );
  get tokens(): Tokens | null;
  get user(): User | null;
  /** Make an account and sign in. */
  register(name: string, password: string, nick?: string): Promise<Tokens>;
  login(name: string, password: string): Promise<Tokens>;
  /** Make a fresh account without a password. */
  guest(nick?: string): Promise<Tokens>;
  /** Set a new password; every other sign-in of the account ends, and its connections close. */
  changePassword(old: string, password: string): Promise<Tokens>;
  /** Sign out here, even if the server is away. */
  logout(): Promise<void>;
  /** Return an access token that is good for a while, refreshing it if need be. */
  token(renew?: boolean): Promise<string>;
}
