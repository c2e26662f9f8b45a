/**
 * Accounts over HTTP: sign up, sign in, guests, and tokens that renew themselves.
 *
 * Passwords travel here only, never on the chat connection (docs/protocol.md §2).
 *
 * Tokens are {user, tenant, access_token, expires_ms, refresh_token, attempt}; a refresh token is
 * as good as a password.
 */

import { parseAddress } from './connection.js';
import { SignInFailed, Unreachable } from './events.js';
import { Code } from './messages.js';
import { MemoryTokens } from './storage.js';

const TIMEOUT_MS = 15_000;
const RENEW_BEFORE_MS = 60_000;
const ATTEMPT_BYTES = 16;

/** One account's tokens; `account.token` is a client's token source. */
export class Account {
  #refreshing = null;

  /**
   * url: of the server, as for `Client`. tokens: where they are kept (storage.js), in memory by
   * default. fetch, now: for tests.
   */
  constructor(url, { tokens = new MemoryTokens(), fetch = undefined, now = Date.now } = {}) {
    this._base = parseAddress(url).http;
    this._store = tokens;
    this._fetch = fetch ?? ((...given) => globalThis.fetch(...given));
    this._now = now;
    this.token = this.token.bind(this);
  }

  /** The tokens of the last sign-in, or null. */
  get tokens() {
    return this._store.load();
  }

  /** The person signed in, as of the last sign-in, or null. */
  get user() {
    return this.tokens?.user ?? null;
  }

  /**
   * Make an account and sign in.
   *
   * @throws {SignInFailed} the name is taken or not allowed, or the password too weak
   * @throws {Unreachable} the server cannot be reached, or asks to come back later
   */
  async register(name, password, nick = '') {
    return this._signIn('register', nick ? { name, password, nick } : { name, password });
  }

  /** Sign in; throws as `register`. */
  async login(name, password) {
    return this._signIn('login', { name, password });
  }

  /** Make a fresh account without a password; throws as `register`. */
  async guest(nick = '') {
    return this._signIn('guest', nick ? { nick } : {});
  }

  /**
   * Set a new password. Every other sign-in of the account ends; connections close, so that clients
   * of this account have to be made anew.
   *
   * @throws {SignInFailed} the old password is not right, or the new one too weak
   * @throws {Unreachable} as `register`
   */
  async changePassword(old, password) {
    const bearer = await this.token();
    // The other tabs find the new tokens, not the old ones that are void by then.
    return this._store.exclusive(() => this._signIn('password', { old, new: password }, bearer));
  }

  /** Sign out here: the refresh token is worth nothing any more, even if the server is away. */
  async logout() {
    const { tokens } = this;
    this._store.save(null);
    if (tokens?.refresh_token) {
      await this._post('logout', { refresh_token: tokens.refresh_token });
    }
  }

  /**
   * Return an access token that is good for a while, refreshing it if need be.
   *
   * @throws {SignInFailed} the refresh token is no good either: sign in again
   * @throws {Unreachable} the server cannot be reached
   */
  async token(renew = false) {
    const { tokens } = this;
    if (tokens === null) throw new SignInFailed('not signed in');
    if (!renew && this._isFresh(tokens)) return tokens.access_token;
    this.#refreshing ??= this._store
      .exclusive(() => this._refresh(tokens))
      .finally(() => {
        this.#refreshing = null;
      });
    return this.#refreshing;
  }

  async _refresh(stale) {
    const { tokens } = this;
    if (tokens === null) throw new SignInFailed('signed out: sign in again');
    // Another tab may have been faster.
    if (tokens.access_token !== stale.access_token && this._isFresh(tokens)) {
      return tokens.access_token;
    }
    if (!tokens.refresh_token) throw new SignInFailed('signed out: sign in again');
    // The same attempt until there is an answer, also after a reload: a refresh token is good for
    // one answer, and only a repeat of the attempt may ask for a lost one again.
    const attempt = tokens.attempt || makeAttempt();
    this._store.save({ ...tokens, attempt });
    const body = { refresh_token: tokens.refresh_token, attempt };
    return (await this._signIn('refresh', body)).access_token;
  }

  _isFresh(tokens) {
    return tokens.expires_ms - this._now() > RENEW_BEFORE_MS;
  }

  async _signIn(door, body, bearer = '') {
    const answer = await this._post(door, body, bearer);
    const tokens = {
      user: answer.user,
      tenant: answer.tenant,
      access_token: answer.token,
      expires_ms: answer.expires,
      refresh_token: answer.refresh_token ?? '',
      attempt: '',
    };
    this._store.save(tokens);
    return tokens;
  }

  async _post(door, body, bearer = '') {
    const headers = { 'Content-Type': 'application/json', Accept: 'application/json' };
    if (bearer) headers.Authorization = `Bearer ${bearer}`;
    let response;
    let answer;
    try {
      response = await this._fetch(`${this._base}/api/v1/auth/${door}`, {
        method: 'POST',
        headers,
        body: JSON.stringify(body),
        credentials: 'omit',
        cache: 'no-store',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const text = await response.text();
      answer = text === '' ? {} : JSON.parse(text);
    } catch (error) {
      if (response !== undefined && !response.ok) throw refusal(response.status, {});
      throw new Unreachable(`the account service does not answer (${error.name})`);
    }
    if (!response.ok) throw refusal(response.status, answer.error ?? {});
    return answer;
  }
}

function refusal(status, error) {
  const said = error.message || error.reason;
  if ([408, 425, 429].includes(status) || status >= 500) {
    const code = status === 429 ? Code.RATE : Code.OVERLOADED;
    return new Unreachable(said || `the account service is busy (status ${status})`, code);
  }
  if (status === 404) return new SignInFailed(said || 'this server has no such sign-in', Code.NOT_FOUND);
  const code = typeof error.code === 'number' && error.code > 0 ? error.code : Code.BAD_CREDENTIALS;
  return new SignInFailed(said || `refused (status ${status})`, code, error.reason ?? '');
}

function makeAttempt() {
  return btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(ATTEMPT_BYTES))));
}
