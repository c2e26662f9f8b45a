/** The client scripts of the protocol vectors, played by the real client over its real codec. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Client } from '../client.js';
import { decode, decodeClient, decodeJson, encode, encodeJson } from '../codec.js';
import { HEADER_BYTES } from '../frames.js';
import { FakeClock, settle } from '../../../../tests/clients/js/clock.mjs';

const VECTORS = new URL('../../../../protocol/vectors/scripts.jsonl', import.meta.url);
const SCRIPTS = readFileSync(VECTORS, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
const FREE = new Set(['ping', 'mark', 'watch', 'typing']);
const WELCOME = {
  t: 'welcome',
  ver: 0,
  session: 1,
  tenant: 1,
  ticket: '',
  ticket_ms: 0,
  hb: 30,
  now: 0,
  caps: 28,
  limits: {},
  dict: 0,
  spec: 0,
};

/** A server that only keeps what it is sent; every message crosses the codec in both directions. */
class Wire {
  constructor() {
    this.sent = [];
    this.receiver = null;
  }

  open = async (address, receiver) => {
    this.receiver = receiver;
    return {
      send: (frame) => {
        const message = decodeClient(encode(frame.t, frame).subarray(HEADER_BYTES));
        if (!FREE.has(message.t)) this.sent.push(JSON.parse(encodeJson(message.t, message)));
      },
      close() {},
      abort: (reason) => receiver.connectionLost(reason),
    };
  };

  arrive(json) {
    const message = decodeJson(JSON.stringify(json));
    this.receiver.framesReceived([decode(encode(message.t, message).subarray(HEADER_BYTES))]);
  }
}

class Player {
  constructor(script) {
    this.script = script;
    this.wire = new Wire();
    this.clock = new FakeClock();
    this.rids = new Map();
    this.client = new Client('ws://127.0.0.1', async () => 'token', {
      open: this.wire.open,
      clock: this.clock,
      random: () => 0,
    });
  }

  async play() {
    await this.client.start();
    await settle();
    assert.equal(this.wire.sent.shift().t, 'hello');
    this.welcome(0);
    for (const [at, step] of this.script.steps.entries()) {
      await this.step(step, at);
      await settle();
    }
    assert.deepEqual(this.wire.sent, [], 'nothing was sent that the script does not expect');
    this.compare(this.script.end);
    await this.client.close();
  }

  async step(step, at) {
    if (step.in) this.arrive(step.in);
    else if (step.out) this.expect(step.out, at);
    else if (step.wait_ms) this.clock.advance(step.wait_ms);
    else if (step.say) {
      const { conv, cid, text } = step.say;
      this.client.post(conv, text, { cid: fromBase64(cid) });
    } else if (step.page) this.client.history(step.page.conv, step.page.anchor).catch(() => {});
    else if (step.cut) await this.cut();
    else assert.fail(`no such step: ${JSON.stringify(step)}`);
  }

  arrive(frame) {
    const known = frame.rid ? { ...frame, rid: this.rids.get(frame.rid) } : frame;
    this.wire.arrive(known);
  }

  expect(frame, at) {
    const sent = this.wire.sent.shift();
    assert.ok(sent, `nothing was sent, expected ${frame.t}`);
    const { rid, ...named } = frame;
    holds(sent, named);
    if (rid) this.rids.set(rid, sent.rid);
    if (frame.t === 'hello') this.welcome(at + 1);
  }

  welcome(at) {
    const { epoch } = this.script.steps.slice(at).find((step) => step.in?.t === 'synced').in;
    this.wire.arrive({ ...WELCOME, user: this.script.me, epoch });
  }

  async cut() {
    this.wire.receiver.connectionLost('cut');
    await settle();
    this.clock.advance(0);
  }

  compare({ feeds, rows = {}, streams, outbox }) {
    const { client } = this;
    for (const [feed, rev] of Object.entries(feeds)) {
      assert.equal(client.feeds.known(Number(feed)), rev, `revision of feed ${feed}`);
    }
    for (const [conv, wanted] of Object.entries(rows)) {
      holds(client.feeds.convs.get(Number(conv)).list(), wanted);
    }
    if (streams) {
      const running = [...client.streams.running.values()];
      assert.deepEqual(running.map(({ sid }) => String(sid)), Object.keys(streams));
      for (const stream of running) {
        for (const [part, text] of Object.entries(streams[stream.sid])) {
          assert.equal(stream.text(Number(part)), text);
        }
      }
    }
    if (outbox) assert.deepEqual(client.unsent.map(({ unsent }) => unsent.cid), outbox.map(fromBase64));
  }
}

function fromBase64(text) {
  return Uint8Array.from(Buffer.from(text, 'base64'));
}

/** Check that everything named in `wanted` stands in `actual`, at any depth. */
function holds(actual, wanted) {
  if (Array.isArray(wanted)) {
    assert.equal(actual.length, wanted.length);
    wanted.forEach((item, at) => holds(actual[at], item));
  } else if (typeof wanted === 'object' && wanted !== null) {
    for (const [key, value] of Object.entries(wanted)) {
      assert.ok(key in actual, `${key} is missing`);
      holds(actual[key], value);
    }
  } else {
    assert.equal(actual, wanted);
  }
}

assert.ok(SCRIPTS.length > 20);
for (const script of SCRIPTS) {
  test(`§${script.section} ${script.name}`, () => new Player(script).play());
}
