/**
 * One connection to a server: where it leads, frames out, frames in, and its end.
 *
 * Browsers, and whoever passes a WebSocket class, use WebSocketConnection; Node speaks the native
 * protocol over TCP (tcp.js). Both carry the same frames.
 */

import { decode, encode } from './codec.js';
import { AddressError, Unreachable } from './events.js';
import { cutMessage, SUBPROTOCOLS } from './frames.js';
import { Code } from './messages.js';

export const MAX_FRAME_BYTES = 1024 * 1024;
export const DEFAULT_PORT = 8420;

const CLOSE_NORMAL = 1000;
const SCHEMES = {
  'parlance:': { transport: 'tcp', tls: false },
  'parlances:': { transport: 'tcp', tls: true },
  'ws:': { transport: 'ws', tls: false },
  'wss:': { transport: 'ws', tls: true },
  'http:': { transport: 'ws', tls: false },
  'https:': { transport: 'ws', tls: true },
};

/**
 * Return what an address means: {transport, host, port, tls, path, http}; `http` is where the HTTP
 * doors are. A page passes `location.origin`.
 */
export function parseAddress(text) {
  let url;
  try {
    url = new URL(text.includes('://') ? text : `parlance://${text}`);
  } catch {
    throw new AddressError(`not a server address: ${text}`);
  }
  const scheme = SCHEMES[url.protocol];
  if (scheme === undefined || url.hostname === '') {
    const known = Object.keys(SCHEMES).join('//, ');
    throw new AddressError(`not a server address: ${text}; it begins with one of ${known}//`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new AddressError('no user name or password in the address: they would reach logs');
  }
  const { transport, tls } = scheme;
  const standard = tls ? 443 : 80;
  const port = Number(url.port) || (transport === 'tcp' ? DEFAULT_PORT : standard);
  const path = (url.pathname === '' || url.pathname === '/' ? '/ws' : url.pathname) + url.search;
  const http = `${tls ? 'https' : 'http'}://${url.hostname}:${port}`;
  return { transport, host: url.hostname.replace(/^\[|\]$/g, ''), port, tls, path, http };
}

/**
 * What both transports share. `send` never blocks.
 *
 * The receiver is told `framesReceived(frames)` for whole messages of the server in order,
 * `frameRefused()` for one that could not be understood, and `connectionLost(reason)` once at the
 * end, unless `close` was called before.
 */
export class Connection {
  constructor(receiver) {
    this._receiver = receiver;
    this._pieces = [];
    this._closing = false;
    this._left = false;
    this._ended = false;
    this._failure = '';
    /** Messages of unknown types that were left out. */
    this.ignored = 0;
  }

  /**
   * Queue a frame, `t` being its name, for the write at the end of this turn of the loop.
   *
   * @throws {ProtocolError} its fields are not what the protocol allows
   */
  send(frame) {
    if (this._closing) return;
    const piece = encode(frame.t, frame);
    if (this._pieces.length === 0) queueMicrotask(() => this._flush());
    this._pieces.push(piece);
  }

  /** Write what is queued, then close in the transport's way; the receiver hears no more. */
  close() {
    this._left = true;
    if (this._closing) return;
    this._flush();
    this._closing = true;
    this._shut();
  }

  /** Drop the connection now, without waiting for a peer that may be stuck. */
  abort(reason) {
    this._failure ||= reason;
    this._closing = true;
    this._drop();
    this._over('');
  }

  _flush() {
    if (this._pieces.length === 0) return;
    const length = this._pieces.reduce((sum, piece) => sum + piece.length, 0);
    const whole = new Uint8Array(length);
    let at = 0;
    for (const piece of this._pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    this._pieces = [];
    this._write(whole);
  }

  /** Decode payloads and hand them on. */
  _take(payloads) {
    if (this._closing) return;
    const frames = [];
    let refused = 0;
    for (const payload of payloads) {
      try {
        frames.push(decode(payload));
      } catch (error) {
        if (error.closes || error.code === undefined) {
          this.abort(`the server sent something unreadable: ${error.message}`);
          return;
        }
        if (error.code === Code.UNKNOWN_TYPE) this.ignored += 1;
        else refused += 1;
      }
    }
    this._receiver.framesReceived(frames);
    if (refused > 0) this._receiver.frameRefused();
  }

  _over(reason) {
    if (this._ended) return;
    this._ended = true;
    this._closing = true;
    // Whoever closed it may have another connection by now.
    if (!this._left) this._receiver.connectionLost(this._failure || reason);
  }
}

/** Frames in binary WebSocket messages. */
class WebSocketConnection extends Connection {
  constructor(receiver, socket) {
    super(receiver);
    this._socket = socket;
    socket.onmessage = ({ data }) => {
      if (typeof data === 'string') return;
      let payloads;
      try {
        payloads = cutMessage(new Uint8Array(data), MAX_FRAME_BYTES);
      } catch (error) {
        this.abort(`the server sent something unreadable: ${error.message}`);
        return;
      }
      this._take(payloads);
    };
    socket.onclose = () => this._over('the server closed the connection');
    // Not every implementation says `close` after it.
    socket.onerror = () => this.abort('the connection broke');
  }

  _write(bytes) {
    if (this._socket.readyState === 1) this._socket.send(bytes);
  }

  _shut() {
    this._socket.close(CLOSE_NORMAL);
  }

  _drop() {
    this._socket.close();
  }
}

function openWebSocket(address, receiver, { timeout, WebSocket = globalThis.WebSocket }) {
  if (WebSocket === undefined) {
    throw new AddressError("no WebSocket here: pass the class as `WebSocket`, or use parlance://");
  }
  const { tls, host, port, path } = address;
  const name = host.includes(':') ? `[${host}]` : host;
  return new Promise((resolve, reject) => {
    const url = `${tls ? 'wss' : 'ws'}://${name}:${port}${path}`;
    const socket = new WebSocket(url, [SUBPROTOCOLS.msgpack]);
    socket.binaryType = 'arraybuffer';
    const fail = (reason) => {
      clearTimeout(timer);
      socket.onopen = socket.onclose = socket.onerror = null;
      socket.close();
      reject(new Unreachable(reason));
    };
    const timer = setTimeout(() => fail(`no answer from ${host} in ${timeout / 1000} s`), timeout);
    socket.onclose = socket.onerror = () => fail(`no connection to ${host}:${port}`);
    socket.onopen = () => {
      clearTimeout(timer);
      resolve(new WebSocketConnection(receiver, socket));
    };
  });
}

/**
 * Connect, and upgrade if it is a WebSocket; return a connection ready for `hello`.
 *
 * @throws {Unreachable} nobody answers there, or not as a Parlance server would
 * @throws {AddressError} this place cannot connect to such an address at all
 */
export async function openConnection(address, receiver, options) {
  if (address.transport === 'ws') return openWebSocket(address, receiver, options);
  if (globalThis.process?.versions?.node === undefined) {
    throw new AddressError('browsers speak WebSocket only: use a ws:// or wss:// address');
  }
  const { openTcp } = await import('./tcp.js');
  return openTcp(address, receiver, options);
}
