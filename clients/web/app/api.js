// Requests over HTTP, for what the socket has no frame for: pictures, cards, memories, the account.

import { ServerError, SignInFailed, Unreachable } from "../sdk/client.js";

/** Uploads over a slow line may take this long, in ms. */
const TIMEOUT_MS = 60_000;

/**
 * Asks in the name of who is signed in.
 *
 * Whatever is refused is a `ServerError` {code, reason, detail}, as on the socket; a server that
 * does not answer is `Unreachable`. A token that is no good any more is renewed once.
 */
export class Api {
  #session;
  #fetch;

  constructor(session, fetch = (...given) => globalThis.fetch(...given)) {
    this.#session = session;
    this.#fetch = fetch;
  }

  get(path) {
    return this.#json("GET", path);
  }

  /** `body`: what becomes JSON, or a Blob that is sent as it is. */
  post(path, body) {
    return this.#json("POST", path, body);
  }

  put(path, body) {
    return this.#json("PUT", path, body);
  }

  delete(path, body) {
    return this.#json("DELETE", path, body);
  }

  /** A file: {name, blob}; the name is the server's. */
  async file(path) {
    const response = await this.#answer("GET", path);
    const said = response.headers.get("Content-Disposition") ?? "";
    const name = /filename="([\w.-]+)"/.exec(said)?.[1] ?? "download";
    return { name, blob: await whole(response.blob()) };
  }

  async #json(method, path, body) {
    const text = await whole((await this.#answer(method, path, body)).text());
    return text === "" ? null : JSON.parse(text);
  }

  async #answer(method, path, body) {
    let response = await this.#send(method, path, body, false);
    if (response.status === 401) response = await this.#send(method, path, body, true);
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async #send(method, path, body, renew) {
    const headers = { Authorization: `Bearer ${await this.#token(renew)}` };
    const isFile = body instanceof Blob;
    if (isFile) headers["Content-Type"] = body.type || "application/octet-stream";
    else if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = {
      method,
      headers,
      body: isFile || body === undefined ? body : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    };
    return whole(this.#fetch(`${this.#session.origin}${path}`, options));
  }

  async #token(renew) {
    try {
      return await this.#session.token(renew);
    } catch (error) {
      if (error instanceof SignInFailed) throw new ServerError(error.code, "signed out", -1, error.reason);
      throw error;
    }
  }
}

async function whole(coming) {
  try {
    return await coming;
  } catch (error) {
    throw new Unreachable(`the server does not answer (${error.name})`);
  }
}

async function refusal(response) {
  const found = await response.json().catch(() => null);
  const { code = 0, reason = `status ${response.status}`, message = "" } = found?.error ?? {};
  const wait = Number(response.headers.get("Retry-After") ?? -1);
  return new ServerError(code, reason, wait > 0 ? wait * 1000 : -1, message);
}

/** Hand a file to the browser, which saves it. */
export function saveFile({ name, blob }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
