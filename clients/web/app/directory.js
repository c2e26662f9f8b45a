// Who the people and personas are that one meets: asked for once, and remembered.

import { Scope, ServerError } from "../sdk/client.js";
import { signal } from "./ui.js";

/** People and personas that are remembered; more than a person meets in a session. */
const REMEMBERED_MAX = 5_000;
/** People that one request may ask for. */
const USERS_AT_ONCE = 100;

/** The rows of people and personas, read through the SDK's `client`, until `close`. */
export class Directory {
  #client;
  #wanted = { users: new Set(), personas: new Set() };
  /** Ids that were asked for once: who is not to be found is not asked for again. */
  #asked = { users: new Set(), personas: new Set() };
  #timer = 0;
  #reading = null;
  /** When all personas were read, in ms since 1970. */
  #read = 0;

  constructor(client) {
    this.#client = client;
    /** People by id, as far as they were met. */
    this.people = signal(new Map());
    /** Personas by id, as far as they were met or listed; those that were removed too. */
    this.personas = signal(new Map());
  }

  close() {
    clearTimeout(this.#timer);
  }

  /** A person, undefined while it is being asked for or when there is none. */
  person(id) {
    const found = this.people.value.get(id);
    if (found === undefined) this.#want("users", id);
    return found;
  }

  /** A persona, undefined while it is being asked for or when there is none. */
  persona(id) {
    const found = this.personas.value.get(id);
    if (found === undefined) this.#want("personas", id);
    return found;
  }

  /** Take rows of people or personas that were read, such as by a search. */
  meetPeople(people) {
    this.people.value = joined(this.people.peek(), people);
  }

  meetPersonas(personas) {
    this.personas.value = joined(this.personas.peek(), personas);
  }

  /**
   * Read all personas one may use, unless they were read within the last `fresh` ms; those that
   * others took away meanwhile count as removed.
   */
  async loadPersonas({ fresh = 0 } = {}) {
    if (Date.now() - this.#read < fresh) return;
    this.#reading ??= this.#readPersonas().finally(() => {
      this.#reading = null;
    });
    await this.#reading;
    this.#read = Date.now();
  }

  async #readPersonas() {
    const before = [...this.personas.peek().values()];
    const seen = new Set();
    for (const scope of [Scope.PRIVATE, Scope.TENANT, Scope.PUBLIC]) {
      const found = [];
      for await (const persona of this.#client.personas(scope)) found.push(persona);
      for (const { id } of found) seen.add(id);
      this.meetPersonas(found);
    }
    const now = this.personas.peek();
    const gone = before.filter((row) => !seen.has(row.id) && !row.deleted && now.get(row.id) === row);
    this.meetPersonas(gone.map((row) => ({ ...row, deleted: true })));
  }

  #want(what, id) {
    if (!id || this.#asked[what].has(id)) return;
    const isFirst = this.#wanted.users.size + this.#wanted.personas.size === 0;
    if (this.#asked[what].size >= REMEMBERED_MAX) this.#asked[what].clear();
    this.#asked[what].add(id);
    this.#wanted[what].add(id);
    if (isFirst) this.#timer = setTimeout(() => this.#meet(), 0);
  }

  async #meet() {
    const { users, personas } = this.#wanted;
    this.#wanted = { users: new Set(), personas: new Set() };
    const askAgain = (what, ids) => (error) => {
      if (error instanceof ServerError) return;
      for (const id of ids) this.#asked[what].delete(id);
    };
    const asks = [...personas].map((id) =>
      this.#client
        .getPersona(id)
        .then(({ p }) => this.meetPersonas([p]))
        .catch(askAgain("personas", [id])),
    );
    for (const some of portions([...users], USERS_AT_ONCE)) {
      const found = this.#client.getUsers(some).then((people) => this.meetPeople(people));
      asks.push(found.catch(askAgain("users", some)));
    }
    await Promise.all(asks);
  }
}

function portions(all, most) {
  const count = Math.ceil(all.length / most);
  return Array.from({ length: count }, (_, at) => all.slice(at * most, (at + 1) * most));
}

function joined(known, rows) {
  const all = new Map(known);
  for (const row of rows) {
    all.delete(row.id);
    all.set(row.id, row);
  }
  for (const id of all.keys()) {
    if (all.size <= REMEMBERED_MAX) break;
    all.delete(id);
  }
  return all;
}
