/** A client without a network, for tests of what it does by itself. */

import { Client } from '../../../clients/web/sdk/client.js';
import { decode, decodeClient, encode } from '../../../clients/web/sdk/codec.js';
import { HEADER_BYTES } from '../../../clients/web/sdk/frames.js';
import { FakeClock, settle } from './clock.mjs';

export const WELCOME = {
  t: 'welcome',
  ver: 0,
  session: 1,
  user: 7,
  tenant: 1,
  ticket: '',
  ticket_ms: 0,
  hb: 30,
  now: 0,
  epoch: 1,
  caps: 28,
  limits: {},
  dict: 0,
  spec: 0,
};
export const SYNCED = {
  t: 'synced',
  rid: 0,
  epoch: 1,
  me_rev: 1,
  me: [],
  convs: [],
  streams: [],
  more: false,
  now: 5000,
};

/** A client without a network: `sent` collects what it says, `arrive` is what the server says. */
export class Rig {
  constructor(options = {}) {
    this.clock = new FakeClock();
    this.sent = [];
    this.opened = 0;
    this.refusing = null;
    this.events = [];
    this.renewals = [];
    this.client = new Client(
      'ws://localhost',
      async (renew) => {
        this.renewals.push(renew);
        return 'token';
      },
      { open: this.open, clock: this.clock, random: () => 0.5, ...options },
    );
    this.client.addEventListener('*', (event) => this.events.push(event));
  }

  open = async (address, receiver) => {
    if (this.refusing !== null) throw this.refusing;
    this.opened += 1;
    this.receiver = receiver;
    let open = true;
    return {
      send: (frame) => {
        if (open) this.sent.push(decodeClient(encode(frame.t, frame).subarray(HEADER_BYTES)));
      },
      close: () => {
        open = false;
      },
      abort: (reason) => receiver.connectionLost(reason),
    };
  };

  arrive(...frames) {
    const read = (frame) => decode(encode(frame.t, frame).subarray(HEADER_BYTES));
    this.receiver.framesReceived(frames.map(read));
  }

  async online() {
    await settle();
    this.arrive(WELCOME, SYNCED);
    await settle();
    return this;
  }

  async started() {
    await this.client.start();
    return this.online();
  }

  take(name) {
    const found = this.sent.filter((frame) => frame.t === name);
    this.sent = this.sent.filter((frame) => frame.t !== name);
    return found;
  }
}
