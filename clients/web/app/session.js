// Who is signed in, and the connection that follows from it.

import { Account, Client, Code, Link, SignInFailed, StateInUse, WebState, WebTokens } from "../sdk/client.js";
import { Drafts } from "./drafts.js";
import { Model } from "./model.js";
import { signal } from "./ui.js";

const AGENT = "Parlance/web";
const NAME = "parlance";

/** How often it is looked whether another tab has a new sign-in, before this one is given up. */
const RENEWAL_LOOKS = 5;

/** Why one was signed out, by the server's code, as keys of words. */
const ENDED = {
  [Code.BAD_CREDENTIALS]: "account.out_expired",
  [Code.EXPIRED]: "account.out_expired",
  [Code.REVOKED]: "account.out_revoked",
  [Code.REPLACED]: "account.out_replaced",
  [Code.SIZE_LIMIT]: "account.out_devices",
  [Code.VERSION]: "account.out_version",
};

/**
 * Signs people in and out; the views read `state`:
 *
 *   {name: "out", reason}           nobody is signed in; reason: key of the words that say why one
 *                                   was signed out, or ""
 *   {name: "starting"}              somebody is, and the connection is being set up
 *   {name: "in", client, model, drafts}
 *
 * All tabs of a browser are signed in as the same person: what one of them does, the others follow.
 */
export class Session {
  #account;
  #origin;
  #makeClient;
  #page;
  #tokens = new WebTokens(NAME);
  #starting = null;
  #changing = false;
  #erased = 0;
  #words;

  constructor(words, { origin = location.origin, makeClient = null, page = globalThis } = {}) {
    this.#words = words;
    this.#origin = origin;
    this.#page = page;
    this.#account = new Account(origin, { tokens: this.#tokens });
    this.#makeClient = makeClient ?? ((token, options) => new Client(origin, token, options));
    this.state = signal({ name: "out", reason: "" });
    page.addEventListener("storage", (event) => {
      if (event.key === `${NAME}.tokens`) this.#tokensMoved(event.oldValue === null);
      // Other tabs of an erased account may save something while they close.
      if (this.#erased && event.newValue !== null) this.#forget("localStorage");
    });
  }

  /** The access token for requests over HTTP; renewed when it is about to end. */
  token = (renew = false) => this.#tokenOf(this.#starting?.user ?? 0, renew);

  get origin() {
    return this.#origin;
  }

  /** Who may go on without a password: the person signed in when the page stopped, or null. */
  get kept() {
    return this.#account.user;
  }

  /** Go on as who was signed in when the page was left, if anybody was. */
  async resume() {
    if (this.#account.tokens !== null) await this.#start();
  }

  /** Make an account; throws SignInFailed (taken name, weak password) or Unreachable. */
  async register(name, password, nick) {
    await this.#account.register(name, password, nick);
    await this.#start();
  }

  async login(name, password) {
    await this.#account.login(name, password);
    await this.#start();
  }

  /** Come in without an account: a fresh one without a password. */
  async guest(nick = "") {
    await this.#account.guest(nick);
    await this.#start();
  }

  /** Set a new password; all other devices are signed out, this one connects anew. */
  async changePassword(old, password) {
    this.#changing = true;
    try {
      await this.#account.changePassword(old, password);
    } finally {
      this.#changing = false;
      const { client, used } = this.#starting ?? {};
      const isChanged = used !== this.#account.tokens?.access_token;
      if (client !== undefined && (isChanged || client.link === Link.STOPPED)) await this.#restart();
    }
  }

  /** Sign out on this device. What was not sent yet stays for the next sign-in of the account. */
  async leave() {
    // The tokens are forgotten at once: nobody else's sign-in can come in between.
    const told = this.#account.logout().catch(() => {});
    await this.#end("");
    await told;
  }

  /** Erase the account by `ask`, the request for it; then nothing of it stays in this browser. */
  async erase(ask) {
    const { client, user } = this.#starting;
    this.#changing = true;
    const refusal = await ask().then(() => null, (error) => error);
    this.#changing = false;
    if (refusal !== null) {
      if (client.link === Link.STOPPED) await this.#restart();
      throw refusal;
    }
    const told = this.#account.logout().catch(() => {});
    await this.#end("account.erased");
    await told;
    this.#erased = user;
    for (const name of ["localStorage", "sessionStorage"]) this.#forget(name);
  }

  /** Take out what belongs to the erased account. */
  #forget(name) {
    const prefixes = [`${NAME}.${this.#erased}.`, `${NAME}.draft.${this.#erased}.`];
    try {
      const storage = this.#page[name];
      const keys = Object.keys(storage);
      const own = keys.filter((key) => prefixes.some((prefix) => key.startsWith(prefix)));
      for (const key of own) storage.removeItem(key);
    } catch {
      // Forbidden: then nothing was kept either.
    }
  }

  async #start() {
    const { tokens } = this.#account;
    // Another tab may have signed out in this moment.
    if (tokens === null) return;
    const user = tokens.user.id;
    this.state.value = { name: "starting" };
    const client = this.#makeClient((renew) => this.#tokenOf(user, renew), {
      state: new WebState(`${NAME}.${user}`),
      agent: AGENT,
      lang: this.#words.locale,
      confirms: true,
    });
    const model = new Model(client, { me: user });
    this.#starting = { client, model, user, used: tokens.access_token };
    client.addEventListener("linkChanged", (event) => {
      if (event.link === Link.STOPPED) this.#stopped(client, event.code);
    });
    try {
      await client.start();
    } catch (error) {
      if (this.#starting?.client !== client) return;
      await this.#end(error instanceof StateInUse ? "account.out_tabs" : "account.out_failed");
      return;
    }
    // It may have been signed out again before it was there.
    if (this.#starting?.client !== client) return;
    this.state.value = { name: "in", client, model, drafts: new Drafts(user) };
  }

  /** Each client speaks for one person only, whoever is signed in in this browser by now. */
  async #tokenOf(user, renew) {
    const token = await this.#account.token(renew);
    if (this.#account.user?.id !== user) throw new SignInFailed("somebody else is signed in here");
    if (this.#starting?.user === user) this.#starting.used = token;
    return token;
  }

  /** The client gave up: the sign-in is no good any more, or another reason that `code` tells. */
  async #stopped(client, code) {
    if (this.#starting?.client !== client || this.#changing) return;
    if (code === Code.REVOKED && (await this.#isRenewed())) {
      await this.#restart();
      return;
    }
    const isOver = [Code.REVOKED, Code.BAD_CREDENTIALS, Code.EXPIRED].includes(code);
    if (isOver && this.#account.user?.id === this.#starting?.user) {
      this.#account.logout().catch(() => {});
    }
    await this.#end(ENDED[code] ?? "account.out_failed");
  }

  /** Whether another tab has a new sign-in of the same person, as after a change of the password. */
  async #isRenewed() {
    const { user, used } = this.#starting;
    for (let look = 0; look < RENEWAL_LOOKS; look++) {
      const tokens = await this.#tokens.exclusive(() => this.#account.tokens);
      if (tokens === null || tokens.user.id !== user) return false;
      if (tokens.access_token !== used) return true;
    }
    return false;
  }

  /** Another tab signed in or out, or renewed the sign-in. */
  async #tokensMoved(wereNone) {
    const { user } = this.#account.tokens ?? {};
    if (this.#starting === null) {
      if (user && wereNone && this.state.peek().name === "out") await this.#start();
    } else if (user?.id !== this.#starting.user) {
      await this.#end("account.out_elsewhere");
      if (user) await this.#start();
    }
  }

  async #restart() {
    await this.#end("");
    await this.#start();
  }

  async #end(reason) {
    const { client, model } = this.#starting ?? {};
    this.#starting = null;
    model?.close();
    this.state.value = { name: "out", reason };
    await client?.close();
  }
}
