/** The native protocol over TCP or TLS, for Node: a preface, then frames. */

import net from 'node:net';
import tls from 'node:tls';

import { Connection, MAX_FRAME_BYTES } from './connection.js';
import { Unreachable } from './events.js';
import { FrameDecoder, PREFACE } from './frames.js';

const CLOSE_MS = 2_000;

class TcpConnection extends Connection {
  constructor(receiver, socket) {
    super(receiver);
    this._socket = socket;
    this._decoder = new FrameDecoder(MAX_FRAME_BYTES);
    this._reason = 'the server closed the connection';
    socket.on('data', (data) => this._received(data));
    socket.on('error', (error) => {
      this._reason = plain(error);
    });
    socket.on('close', () => this._over(this._reason));
    socket.write(PREFACE);
  }

  _received(data) {
    this._take(this._decoder.feed(data));
    const { error } = this._decoder;
    if (error !== null) this.abort(`the server sent something unreadable: ${error.message}`);
  }

  _write(bytes) {
    if (this._socket.writable) this._socket.write(bytes);
  }

  _shut() {
    this._socket.end();
    // Closing waits for a peer that takes what is left, which a stuck one never does.
    setTimeout(() => this._socket.destroy(), CLOSE_MS).unref();
  }

  _drop() {
    this._socket.destroy();
  }
}

/**
 * Connect; `options.tls` goes to `tls.connect`, by default the system's certificates are checked.
 *
 * @throws {Unreachable}
 */
export function openTcp(address, receiver, { timeout, tls: secure = {} }) {
  const { host, port } = address;
  const named = net.isIP(host) === 0 ? { servername: host } : {};
  const socket = address.tls
    ? tls.connect({ host, port, ALPNProtocols: ['pwp/1'], ...named, ...secure })
    : net.connect({ host, port, noDelay: true });
  return new Promise((resolve, reject) => {
    const fail = (reason) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new Unreachable(reason));
    };
    const timer = setTimeout(() => fail(`no answer from ${host} in ${timeout / 1000} s`), timeout);
    const refused = (error) => fail(plain(error));
    socket.once('error', refused);
    socket.once(address.tls ? 'secureConnect' : 'connect', () => {
      clearTimeout(timer);
      socket.off('error', refused);
      socket.setNoDelay(true);
      resolve(new TcpConnection(receiver, socket));
    });
  });
}

function plain(error) {
  return error.code ?? error.message;
}
