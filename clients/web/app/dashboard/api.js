// Requests with the key, which goes into a header.

const TURNS = "/api/v1/dashboard/turns";
const PATIENCE_MS = 10_000;

/** The server refused, with `status`; 0: it did not answer. */
export class Failed extends Error {
  constructor(status) {
    super(`status ${status}`);
    this.name = "Failed";
    this.status = status;
  }
}

export class Api {
  /** `key` of whoever looks. */
  key = "";

  /** The points of a ring: `fields` and `points`, oldest first. */
  history(bucket) {
    return this.#ask("GET", `/api/v1/dashboard/history?bucket=${bucket}`);
  }

  /** The answers that run, the oldest hundred of them, and the last that ended. */
  turns() {
    return this.#ask("GET", TURNS);
  }

  cancel(sid) {
    return this.#ask("POST", `${TURNS}/${sid}/cancel`);
  }

  async #ask(method, path) {
    let response;
    try {
      response = await fetch(path, {
        method,
        headers: { "X-API-Key": this.key },
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (response.ok) return await response.json();
    } catch {
      throw new Failed(0);
    }
    throw new Failed(response.status);
  }
}
