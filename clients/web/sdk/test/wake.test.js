/** What the client does by itself when a page sleeps, wakes up, loses its network and gets it back. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { settle } from '../../../../tests/clients/js/clock.mjs';
import { Rig } from '../../../../tests/clients/js/rig.mjs';
import { TIMING } from '../timing.js';

const LISTENING = new Set();

/** The two places of a browser where events are heard; `LISTENING` holds who does. */
class Place extends EventTarget {
  addEventListener(name, listener) {
    LISTENING.add(`${name} ${this.constructor.name}`);
    super.addEventListener(name, listener);
  }

  removeEventListener(name, listener) {
    LISTENING.delete(`${name} ${this.constructor.name}`);
    super.removeEventListener(name, listener);
  }
}

class Page extends Place {}

class Document extends Place {
  visibilityState = 'visible';
}

const page = new Page();
globalThis.document = new Document();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);

function turn(state) {
  document.visibilityState = state;
  document.dispatchEvent(new Event('visibilitychange'));
}

const happen = (name) => page.dispatchEvent(new Event(name));

test('a page that is shown again asks at once whether the connection lives, and what was missed', async () => {
  const rig = await new Rig().started();
  turn('hidden');
  assert.deepEqual(rig.sent.map(({ t }) => t), ['hello'], 'nobody looks');
  turn('visible');
  assert.equal(rig.take('ping').length, 1);
  assert.equal(rig.take('sync').length, 1);
  happen('pageshow');
  assert.equal(rig.take('sync').length, 0, 'the first answer tells all');
  await rig.client.close();
});

test('a connection that died in the sleep of the page is replaced soon after it', async () => {
  const rig = await new Rig().started();
  turn('hidden');
  rig.clock._now += 3_600_000; // no timer rings in a frozen page
  turn('visible');
  assert.equal(rig.client.link, 'online', 'it may live yet');
  rig.clock.advance(TIMING.pong);
  await settle();
  assert.equal(rig.client.link, 'offline');
  await rig.client.close();
});

test('a network that is back is used at once', async () => {
  const rig = await new Rig().started();
  rig.receiver.connectionLost('cut');
  await settle();
  assert.equal(rig.client.link, 'offline');
  happen('online');
  await settle();
  assert.equal(rig.opened, 2, 'no time had to pass');
  await rig.client.close();
});

test('a network that goes away is noticed before the next heartbeat', async () => {
  const rig = await new Rig().started();
  rig.take('ping');
  happen('offline');
  assert.equal(rig.take('ping').length, 1);
  rig.clock.advance(TIMING.pong);
  await settle();
  assert.equal(rig.client.link, 'offline');
  await rig.client.close();
});

test('turning to the page again and again does not keep a dead connection', async () => {
  const rig = await new Rig().started();
  for (let elapsed = 0; elapsed < TIMING.pong; elapsed += TIMING.pong / 4) {
    turn('hidden');
    turn('visible');
    rig.clock.advance(TIMING.pong / 4);
  }
  await settle();
  assert.equal(rig.client.link, 'offline');
  assert.equal(rig.take('ping').length, 1);
  await rig.client.close();
});

test('a closed client listens no more', async () => {
  const rig = await new Rig().started();
  assert.deepEqual([...LISTENING].sort(), [
    'offline Page',
    'online Page',
    'pageshow Page',
    'visibilitychange Document',
  ]);
  await rig.client.close();
  assert.deepEqual([...LISTENING], []);
});
