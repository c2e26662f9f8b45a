// Who is signed in, and the connection that follows from it.

import { Account, Client, SignInFailed, WebState, WebTokens } from "../sdk/client.js";
import { Drafts } from "./drafts.js";
import { Model } from "./model.js";
import { signal } from "./ui.js";

const AGENT = "Parlance/web";

/**
 * Signs people in and out; the views read `state`:
 *
 *   {name: "out", reason}           nobody is signed in; reason: why one was signed out, or ""
 *   {name: "starting"}              somebody is, and the connection is being set up
 *   {name: "in", client, model, drafts}
 */
export class Session {
  #account;
  #origin;
  #makeClient;
  #starting = null;
  #words;

  constructor(words, { origin = location.origin, account = null, makeClient = null } = {}) {
    this.#words = words;
    this.#origin = origin;
    this.#account = account ?? new Account(origin, { tokens: new WebTokens("parlance") });
    this.#makeClient = makeClient ?? ((options) => new Client(origin, this.#account.token, options));
    this.state = signal({ name: "out", reason: "" });
  }

  /** The access token for requests over HTTP; renewed when it is about to end. */
  token = (renew = false) => this.#account.token(renew);

  get origin() {
    return this.#origin;
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

  /** Sign out on this device. What was not sent yet stays for the next sign-in of the account. */
  async leave() {
    await this.#end("");
    await this.#account.logout().catch(() => {});
  }

  async #start() {
    this.state.value = { name: "starting" };
    const user = this.#account.user.id;
    const client = this.#makeClient({
      state: new WebState(`parlance.${user}`),
      agent: AGENT,
      lang: this.#words.locale,
      confirms: true,
    });
    const model = new Model(client, { me: user });
    this.#starting = { client, model };
    try {
      await client.start();
    } catch (error) {
      model.close();
      this.state.value = { name: "out", reason: error.message };
      return;
    }
    client.addEventListener("linkChanged", (event) => {
      if (event.link === "stopped") this.#stopped(client, event);
    });
    this.state.value = { name: "in", client, model, drafts: new Drafts(user) };
  }

  /** The client gave up: the token is no good any more, or another reason that it tells. */
  #stopped(client, { reason }) {
    if (this.#starting?.client !== client) return;
    this.#end(reason);
    this.#account.token().catch((error) => {
      if (error instanceof SignInFailed) this.#account.logout().catch(() => {});
    });
  }

  async #end(reason) {
    const { client, model } = this.#starting ?? {};
    this.#starting = null;
    model?.close();
    this.state.value = { name: "out", reason };
    await client?.close();
  }
}
