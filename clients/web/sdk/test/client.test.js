/** The parts of the client by themselves: waiting, sending, keeping, signing in. */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { Account } from '../auth.js';
import { Client, IN_FLIGHT_MAX, REQUESTS_MAX } from '../client.js';
import { decodeClient, encode } from '../codec.js';
import { openConnection, parseAddress } from '../connection.js';
import {
  AddressError,
  InvalidText,
  OutboxFull,
  RequestTimeout,
  ServerError,
  SignInFailed,
  StateInUse,
  Stopped,
  Subscription,
  Unreachable,
} from '../events.js';
import { Feeds } from '../feeds.js';
import { FrameDecoder, PREFACE } from '../frames.js';
import { cleanText, fromHex, makeCid, Outbox, Outgoing, toHex, UNSENT_MAX } from '../outbox.js';
import { FileState, MemoryState, MemoryTokens, WebState, WebTokens } from '../storage.js';
import { crc32, Stream, Streams, STREAMS_MAX } from '../streams.js';
import { Backoff, DEAD, Heartbeat, NOTHING, PING, TIMING } from '../timing.js';
import { settle } from '../../../../tests/clients/js/clock.mjs';
import { Rig, SYNCED, WELCOME } from '../../../../tests/clients/js/rig.mjs';

const answer = (request, fields) => ({ rid: request.rid, ...fields });

test('addresses lead to a transport and to the HTTP doors', () => {
  const tcp = parseAddress('chat.example.org');
  assert.deepEqual([tcp.transport, tcp.port, tcp.tls], ['tcp', 8420, false]);
  const page = parseAddress('https://chat.example.org');
  assert.deepEqual([page.transport, page.port, page.path], ['ws', 443, '/ws']);
  assert.equal(page.http, 'https://chat.example.org:443');
  const local = parseAddress('parlances://[::1]:9000');
  assert.deepEqual([local.host, local.port, local.http], ['::1', 9000, 'https://[::1]:9000']);
  for (const wrong of ['ftp://x', 'parlance://', 'ws://user:word@x', '::', 'ws://x:99999']) {
    assert.throws(() => parseAddress(wrong), AddressError, wrong);
  }
});

test('waits grow, are spread, and start again after a steady connection', () => {
  const backoff = new Backoff(TIMING, () => 0.5);
  assert.deepEqual([0, 0, 0].map((now) => backoff.wait(now)), [1500, 1000, 2000]);
  for (let attempt = 0; attempt < 50; attempt++) assert.ok(backoff.wait(0) <= TIMING.backoffMax);
  backoff.connected(0);
  assert.equal(backoff.wait(TIMING.steady), 1500);
});

test('a server that keeps saying "now" is not asked in a tight loop', () => {
  const backoff = new Backoff(TIMING, () => 0.5);
  backoff.told(0, 0);
  assert.equal(backoff.wait(0), 0);
  backoff.told(0, 0);
  assert.equal(backoff.wait(0), 1000);
  backoff.told(5000, 2000);
  assert.equal(backoff.wait(0), 6000);
});

test('silence brings a ping, and no answer to it the end', () => {
  const pulse = new Heartbeat(30_000, 10_000, 0, 0.5);
  assert.equal(pulse.check(14_999), NOTHING);
  assert.equal(pulse.check(15_000), PING);
  assert.equal(pulse.due, 25_000);
  pulse.received();
  assert.equal(pulse.check(45_000), PING);
  assert.equal(pulse.check(55_000), DEAD);
});

test('a cid is a UUIDv7', () => {
  const cid = makeCid(0x0123456789ab);
  assert.match(toHex(cid), /^0123456789ab7[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
  assert.deepEqual(fromHex(toHex(cid)), cid);
  assert.notDeepEqual(makeCid(), makeCid());
});

test('text is cleaned as the server cleans it', () => {
  assert.equal(cleanText('a\r\nb\tc'), 'a\nb\tc');
  assert.equal(cleanText('e\u0301 中文 👩‍🚀'), 'é 中文 👩‍🚀');
  for (const wrong of ['\0', '\x1b[0m', '\ud800', '\udc00x', 'x'.repeat(32_001)]) {
    assert.throws(() => cleanText(wrong), InvalidText);
  }
  assert.equal(cleanText('👍'.repeat(32_000)).length, 64_000);
});

test('crc and offsets count bytes of UTF-8', () => {
  assert.equal(crc32(new TextEncoder().encode('123456789')), 0xcbf43926);
  const stream = new Stream(1, 2, 3, 4, 1);
  assert.equal(stream.add(0, 0, '你'), '你');
  assert.equal(stream.add(0, 0, '你\ufeff好'), '\ufeff好');
  assert.equal(stream.size(), 9);
  assert.equal(stream.add(0, 3, '\ufeff'), '');
  assert.equal(stream.add(0, 10, 'x'), null);
  assert.equal(stream.text(), '你\ufeff好');
});

test('streams followed at once are bounded', () => {
  const streams = new Streams();
  for (let sid = 1; sid <= STREAMS_MAX + 2; sid++) {
    streams.start({ sid, conv: 1, persona: 1, ask: 0, state: 1 });
  }
  assert.equal(streams.running.size, STREAMS_MAX);
  assert.equal(streams.dropped, 2);
  assert.ok(!streams.running.has(1));
});

test('an outbox is bounded and keeps the order of each conversation', () => {
  const outbox = new Outbox(TIMING, () => 0);
  const entry = (conv) => new Outgoing({ conv, cid: makeCid(), kind: 0, text: '', x: null }, true);
  const [first, second, other] = [entry(1), entry(1), entry(2)];
  for (const one of [first, second, other]) outbox.add(one);
  assert.deepEqual(outbox.ready(0), [first, other]);
  assert.deepEqual(outbox.ready(0), []);
  outbox.putOff(first, 300, 0);
  assert.equal(outbox.due(), 300);
  assert.deepEqual(outbox.ready(300), [first]);
  outbox.settled(first, {});
  assert.deepEqual(outbox.ready(300), [second]);
  while (outbox.size < UNSENT_MAX) outbox.add(entry(3));
  assert.throws(() => outbox.add(entry(3)), OutboxFull);
});

test('a reader who falls behind learns that events are gone', async () => {
  const subscription = new Subscription(() => {}, 2);
  subscription.put([{ type: 'a' }, { type: 'b' }, { type: 'c' }]);
  subscription.put([{ type: 'd' }]);
  subscription.close();
  const seen = [];
  for await (const event of subscription) seen.push(event);
  assert.deepEqual(seen, [{ type: 'lagged', dropped: 3 }, { type: 'd' }]);
});

test('own messages count as read', () => {
  const feeds = new Feeds();
  feeds.user = 7;
  const row = (seq, sender) => ({ seq, rev: seq, ts: 0, sender, kind: 0, text: '', x: null });
  feeds.addMessages(1, [row(1, 8), row(2, 7), row(3, 8)]);
  assert.equal(feeds.convs.get(1).unread, 1);
  feeds.trim(1, 2);
  assert.deepEqual(feeds.convs.get(1).seqs, [2, 3]);
});

test('who reads far back holds that place and the newest messages', () => {
  const feeds = new Feeds();
  const rows = Array.from({ length: 20 }, (_, i) => ({ seq: i + 1, rev: 1, ts: 0, sender: 8, kind: 0, text: '', x: null }));
  feeds.addMessages(1, rows);
  feeds.retain(1, 4, 6, 2);
  const view = feeds.convs.get(1);
  assert.deepEqual(view.seqs, [4, 5, 6, 19, 20]);
  assert.deepEqual([...view.messages.keys()], view.seqs);
  assert.deepEqual([view.lastSeq, view.wholeFrom()], [20, 19]);
  feeds.retain(2, 1, 2, 2);
});

test('what is not set any more in an own view is taken out of it', () => {
  const feeds = new Feeds();
  const push = (rev, my) => feeds.push({ t: 'my_conv', rev, my: { conv: 1, role: 1, ...my } }, 0);
  push(1, { pinned: true, mute_until: 9, remark: 'x' });
  push(2, { read: 3 });
  const view = feeds.convs.get(1);
  assert.deepEqual(view.my, { conv: 1, role: 1, read: 3 });
  // A list read apart from the feed may be older than what the feed told.
  feeds.addList({ rows: [], mine: [{ conv: 1, role: 1, pinned: true }] }, 0);
  assert.equal(view.my.pinned, undefined);
  push(3, { role: 0, left: true });
  assert.ok(view.left);
  push(4, {});
  assert.ok(!view.left);
});

test('an older row never replaces a newer one', () => {
  const feeds = new Feeds();
  const row = (rev, text) => ({ seq: 1, rev, ts: 0, sender: 8, kind: 0, text, x: null });
  feeds.addMessages(1, [row(3, 'edited twice')]);
  assert.deepEqual(feeds.addMessages(1, [row(2, 'edited once')]), []);
  assert.equal(feeds.convs.get(1).list()[0].text, 'edited twice');
  const [event] = feeds.addMessages(1, [row(4, 'edited again')]);
  assert.equal(event.type, 'messageChanged');
});

test('what is watched between the hello and the welcome is told after it', async () => {
  const rig = new Rig();
  await rig.client.start();
  await settle();
  assert.deepEqual(rig.take('hello').map((hello) => hello.watch ?? null), [null]);
  assert.equal(await rig.client.watch([5]), null);
  await rig.online();
  assert.deepEqual(rig.take('watch').map(({ w }) => w.convs), [[5]]);
  await rig.client.close();
});

test('a request goes again over the next connection and resolves once', async () => {
  const rig = await new Rig().started();
  const usage = rig.client.usage();
  const [lost] = rig.take('usage');
  rig.receiver.connectionLost('cut');
  await settle();
  assert.equal(rig.client.link, 'offline');
  rig.clock.advance(2_000);
  await rig.online();
  const [again] = rig.take('usage');
  assert.notEqual(again.rid, lost.rid);
  const use = { used_in: 1, used_out: 2, spent: 3, quota: 0, resets: 4 };
  rig.arrive({ t: 'usage_info', rid: again.rid, today: use, month: use });
  assert.equal((await usage).today.used_out, 2);
  await rig.client.close();
});

test('"later" is waited out, "never" is thrown, and so is the end of one\'s patience', async () => {
  const rig = await new Rig().started();
  const err = (request, code, retry) => ({ t: 'err', rid: request.rid, code, reason: 'no', retry });
  const later = rig.client.cancel(1);
  rig.arrive(err(rig.take('cancel')[0], 400, 1000));
  rig.clock.advance(999);
  assert.equal(rig.take('cancel').length, 0);
  rig.clock.advance(1);
  rig.arrive({ t: 'done', rid: rig.take('cancel')[0].rid });
  assert.equal((await later).t, 'done');
  const never = rig.client.cancel(2);
  rig.arrive(err(rig.take('cancel')[0], 300, -1));
  await assert.rejects(never, (error) => error instanceof ServerError && error.code === 300);
  const silent = rig.client.request('cancel', { sid: 3 }, 5_000);
  rig.clock.advance(5_000);
  await assert.rejects(silent, RequestTimeout);
  await assert.rejects(rig.client.request('cancel', { sid: 'three' }), /cancel\.sid/);
  await rig.client.close();
});

test('requests in flight and requests that wait are bounded', async () => {
  const rig = await new Rig().started();
  const asked = Array.from({ length: IN_FLIGHT_MAX + REQUESTS_MAX }, () => rig.client.cancel(1));
  assert.equal(rig.take('cancel').length, IN_FLIGHT_MAX);
  await assert.rejects(rig.client.cancel(1), /too many/);
  await rig.client.close();
  const settled = await Promise.allSettled(asked);
  assert.ok(settled.every(({ reason }) => reason instanceof Stopped));
});

test('a machine that slept asks for a sign of life before it gives up a connection', async () => {
  const rig = await new Rig().started();
  rig.clock.advance(15_000);
  assert.equal(rig.take('ping').length, 1);
  // The timer of the pong's end rings an hour late.
  rig.clock._now += 3_600_000;
  rig.clock.advance(0);
  assert.equal(rig.client.link, 'online');
  assert.equal(rig.take('ping').length, 1);
  assert.equal(rig.take('sync').length, 1, 'and asks what it missed');
  rig.clock.advance(TIMING.pong);
  await settle();
  assert.equal(rig.client.link, 'offline');
  await rig.client.close();
});

test('waking up tries at once when offline, and looks at the connection when online', async () => {
  const rig = await new Rig().started();
  rig.client.wake();
  assert.equal(rig.take('ping').length, 1);
  assert.equal(rig.take('sync').length, 1);
  rig.receiver.connectionLost('cut');
  await settle();
  rig.client.wake();
  await settle();
  assert.equal(rig.opened, 2, 'no time had to pass');
  await rig.client.close();
});

test('a replaced device stays away, an expired token is renewed once', async () => {
  const rig = await new Rig().started();
  rig.arrive({ t: 'bye', code: 203, reason: 'replaced', retry: -1, spread_ms: 0 });
  await settle();
  assert.equal(rig.client.link, 'stopped');
  await assert.rejects(rig.client.waitOnline(), (error) => error.code === 203);
  assert.throws(() => rig.client.post(1, 'x'), Stopped);

  const other = new Rig();
  await other.client.start();
  await settle();
  const expired = { t: 'bye', code: 201, reason: 'expired', retry: -1, spread_ms: 0 };
  other.arrive(expired);
  await settle();
  other.clock.advance(0);
  await settle();
  assert.deepEqual(other.renewals, [false, true]);
  other.arrive(expired);
  await settle();
  assert.equal(other.client.link, 'stopped');
});

test('a sign-in that was refused stops the client, a server that is away does not', async () => {
  const rig = new Rig();
  rig.refusing = new Unreachable('ECONNREFUSED');
  await rig.client.start();
  await settle();
  assert.equal(rig.client.link, 'offline');
  rig.refusing = new SignInFailed('sign in again');
  rig.client.retryNow();
  await settle();
  assert.equal(rig.client.link, 'stopped');
  assert.equal(rig.events.at(-1).reason, 'sign in again');
});

test('closing does not wait for a server that does not answer', async () => {
  const rig = new Rig({ open: () => new Promise(() => {}) });
  await rig.client.start();
  await settle();
  await rig.client.close();
});

test('a message waits until it is saved, and a full disk does not hold it up', async () => {
  const state = new MemoryState();
  state.durable = true;
  let finish;
  state.save = () =>
    new Promise((resolve, reject) => {
      finish = { resolve, reject };
    });
  const rig = await new Rig({ state }).started();
  const sent = rig.client.send(1, 'hi');
  await settle();
  assert.equal(rig.take('send').length, 0);
  finish.reject(new Error('no space left'));
  await settle();
  assert.ok(rig.events.some(({ type }) => type === 'stateUnsaved'));
  const [request] = rig.take('send');
  rig.arrive({ t: 'sent', ...answer(request, { conv: 1, seq: 1, rev: 1, ts: 1, dup: false }) });
  assert.equal((await sent).seq, 1);
  finish.resolve();
  const closed = rig.client.close();
  await settle();
  finish.resolve();
  await closed;
});

test('a message that no frame can hold is refused and does not block the next', async () => {
  const rig = await new Rig().started();
  const bad = rig.client.send(1, 'hi', { x: { quote: -1 } });
  const good = rig.client.post(1, 'hi');
  await assert.rejects(bad, (error) => error instanceof ServerError && error.code === 310);
  rig.clock.advance(0);
  const [request] = rig.take('send');
  assert.deepEqual(request.cid, good.unsent.cid);
  await rig.client.close();
});

test('a message larger than the frames of this server is refused, the next one goes', async () => {
  const rig = new Rig();
  await rig.client.start();
  await settle();
  rig.arrive({ ...WELCOME, limits: { frame: 40_000 } }, SYNCED);
  const fits = rig.client.post(1, '汉'.repeat(13_000));
  const bad = rig.client.send(2, '汉'.repeat(13_400));
  const next = rig.client.post(2, 'hi');
  await assert.rejects(bad, (error) => error.code === 403 && error.detail.includes('parts'));
  rig.clock.advance(0);
  const sent = rig.take('send').map(({ cid }) => cid);
  assert.deepEqual(sent, [fits.unsent.cid, next.unsent.cid]);
  await rig.client.close();
});

test('read marks are collected, and repeated when a sync shows a lower one', async () => {
  const rig = await new Rig().started();
  rig.client.mark(1, 4);
  rig.client.mark(1, 6);
  rig.client.mark(1, 5);
  assert.equal(rig.take('mark').length, 0);
  rig.clock.advance(TIMING.mark);
  assert.deepEqual(rig.take('mark').map(({ read }) => read), [6]);
  const my = { t: 'my_conv', rev: 2, my: { conv: 1, role: 1, read: 3 } };
  rig.arrive({ ...my, row: { id: 1, rev: 1, last_seq: 6 } }, { t: 'resync', feeds: [] });
  rig.arrive({ ...SYNCED, me_rev: 2, rid: rig.take('sync')[0].rid });
  rig.clock.advance(0);
  assert.deepEqual(rig.take('mark').map(({ read }) => read), [6]);
  await rig.client.close();
});

test('what cannot be understood is dropped and made up for by a sync', async () => {
  const arrived = [];
  const server = net.createServer((socket) => {
    const decoder = new FrameDecoder(1 << 20);
    let begun = false;
    socket.on('data', (data) => {
      if (!begun) assert.deepEqual(Uint8Array.from(data.subarray(0, 8)), PREFACE);
      const frames = decoder.feed(begun ? data : data.subarray(8)).map(decodeClient);
      begun = true;
      for (const frame of frames) {
        arrived.push(frame.t);
        if (frame.t !== 'hello') continue;
        socket.write(encode('welcome', WELCOME));
        socket.write(encode('synced', SYNCED));
        socket.write(Uint8Array.of(0, 0, 0, 3, 0x92, 126, 0)); // a message of the future
        socket.write(Uint8Array.of(0, 0, 0, 3, 0x92, 6, 0xc0)); // a pong whose number is nil
      }
    });
    socket.on('error', () => {});
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = new Client(`127.0.0.1:${server.address().port}`, async () => 'token');
  await client.start();
  await client.waitOnline(5_000);
  while (!arrived.includes('sync')) await settle();
  assert.equal(client.connects, 1);
  await client.close();
  server.close();
});

test('nobody there, and no WebSocket here, are said in plain words', async () => {
  const probe = net.createServer();
  await new Promise((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  const to = (url) => openConnection(parseAddress(url), {}, { timeout: 1_000 });
  await assert.rejects(to(`parlance://127.0.0.1:${port}`), Unreachable);
  if (globalThis.WebSocket === undefined) {
    await assert.rejects(to(`ws://127.0.0.1:${port}`), AddressError);
  }
});

test('a file keeps the outbox, belongs to one client, and is begun anew when broken', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'parlance-'));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, 'state.json');
  const state = new FileState(path);
  const { device } = await state.load();
  const unsent = { conv: 1, cid: makeCid(), kind: 0, text: '你好', x: null, created: 1 };
  await state.save({ device, unsent: [unsent] });
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  await assert.rejects(new FileState(path).load(), StateInUse);
  await state.close();
  await writeFile(`${path}.lock`, '999999999'); // left by a process that is no more
  const next = new FileState(path);
  assert.deepEqual(await next.load(), { device, unsent: [unsent] });
  await next.close();
  await writeFile(path, '{"device": "broken');
  const fresh = await new FileState(path).load();
  assert.equal(fresh.device.length, 16);
  assert.notDeepEqual(fresh.device, device);
  assert.match(await readFile(`${path}.broken`, 'utf8'), /broken/);
});

class FakeStorage {
  items = new Map();

  getItem(key) {
    return this.items.get(key) ?? null;
  }

  setItem(key, value) {
    this.items.set(key, value);
  }

  removeItem(key) {
    this.items.delete(key);
  }
}

/** The Web Locks of one browser, as far as they are used. */
class FakeLocks {
  held = new Set();

  async request(key, ...given) {
    const work = given.at(-1);
    if (this.held.has(key)) return work(null);
    this.held.add(key);
    try {
      return await work({ name: key });
    } finally {
      this.held.delete(key);
    }
  }
}

test('every tab is a device of its own, and a reloaded one finds what it left', async () => {
  const localStorage = new FakeStorage();
  const locks = new FakeLocks();
  const tab = () => new WebState('chat', { localStorage, locks });
  const [first, second] = [tab(), tab()];
  const { device } = await first.load();
  assert.notDeepEqual((await second.load()).device, device);
  const unsent = [{ conv: 1, cid: makeCid(), kind: 0, text: 'hi', x: null, created: 1 }];
  await first.save({ device, unsent });
  await first.close();
  await settle();
  const reloaded = tab();
  assert.deepEqual(await reloaded.load(), { device, unsent });
  await reloaded.close();
  await settle();
  await second.close();
  await settle();
  const other = tab();
  assert.deepEqual(await other.load(), { device, unsent });
  await other.save({ device, unsent: [] });
  for (let more = 0; more < 7; more++) await tab().load();
  await assert.rejects(tab().load(), StateInUse);
});

test('a tab takes over what closed ones left unsent, but nothing of those that are open', async () => {
  const localStorage = new FakeStorage();
  const locks = new FakeLocks();
  const tab = () => new WebState('chat', { localStorage, locks });
  const tabs = [tab(), tab(), tab()];
  const written = [];
  for (const [number, state] of tabs.entries()) {
    const { device } = await state.load();
    const item = { conv: 1, cid: makeCid(), kind: 0, text: `${number}`, x: null, created: number };
    written.push(item);
    await state.save({ device, unsent: [item] });
  }
  await tabs[0].close();
  await tabs[2].close();
  await settle();
  const { unsent } = await tab().load();
  assert.deepEqual(unsent, [written[0], written[2]]);
  assert.deepEqual((await tab().load()).unsent, [], 'and nobody else takes it too');
});

test('every name that a module exports is declared', async () => {
  const modules = 'auth calls client connection events feeds outbox storage streams tab_locks tcp timing';
  for (const name of modules.split(' ')) {
    const own = await readFile(new URL(`../${name}.d.ts`, import.meta.url), 'utf8');
    const stars = [...own.matchAll(/export \* from "\.\/(\w+)\.js"/g)].map(([, from]) => from);
    const texts = [own];
    for (const from of stars) {
      texts.push(await readFile(new URL(`../${from}.d.ts`, import.meta.url), 'utf8'));
    }
    const declared = texts.join('\n');
    for (const exported of Object.keys(await import(`../${name}.js`))) {
      assert.match(declared, new RegExp(`\\b${exported}\\b`), `${exported} of ${name}.js`);
    }
  }
});

/** An account service whose answers a test gives; `asked` collects what it was asked. */
async function service(t, reply) {
  const asked = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    asked.push({ path: request.url, ...JSON.parse(body) });
    const [status, answered] = reply(asked.length, request.url);
    response.writeHead(status, { 'Content-Type': 'application/json', Connection: 'close' });
    response.end(typeof answered === 'string' ? answered : JSON.stringify(answered));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return [`parlance://127.0.0.1:${server.address().port}`, asked];
}

const signedIn = (number, expires) => ({
  user: { id: 7, nick: 'Ada' },
  tenant: 1,
  token: `token ${number}`,
  expires,
  refresh_token: `refresh ${number}`,
});

test('a token is renewed shortly before its end, by one request however many ask', async (t) => {
  const [url, asked] = await service(t, (number) => [200, signedIn(number, number * 1_000_000)]);
  let now = 0;
  const account = new Account(url, { now: () => now });
  await assert.rejects(account.token(), SignInFailed);
  await account.login('ada', 'a right long password');
  assert.equal(account.user.nick, 'Ada');
  assert.equal(await account.token(), 'token 1');
  now = 950_000;
  const found = await Promise.all([account.token(), account.token(), account.token()]);
  assert.deepEqual(found, ['token 2', 'token 2', 'token 2']);
  assert.deepEqual(asked.map(({ path }) => path), ['/api/v1/auth/login', '/api/v1/auth/refresh']);
  assert.equal(asked[1].refresh_token, 'refresh 1');
});

test('a refresh whose answer was lost is repeated as the same attempt, also after a reload', async (t) => {
  const [url, asked] = await service(t, (number) =>
    number === 2 ? [500, 'oops'] : [200, signedIn(number, 1)],
  );
  const localStorage = new FakeStorage();
  const locks = new FakeLocks();
  const tokens = () => new WebTokens('chat', { localStorage, locks });
  const account = new Account(url, { tokens: tokens() });
  await account.guest();
  await assert.rejects(account.token(), Unreachable);
  const reloaded = new Account(url, { tokens: tokens() });
  assert.equal(await reloaded.token(), 'token 3');
  assert.equal(asked[1].attempt, asked[2].attempt);
  assert.equal(Buffer.from(asked[1].attempt, 'base64').length, 16);
  assert.equal(await account.token(true).then(() => asked.at(-1).refresh_token), 'refresh 3');
  assert.notEqual(asked[3].attempt, asked[2].attempt);
});

test('a new password brings tokens of its own, and a wrong old one changes nothing', async (t) => {
  const wrong = { error: { code: 200, reason: 'bad credentials', message: 'Not right.' } };
  const [url, asked] = await service(t, (number) =>
    number === 2 ? [401, wrong] : [200, signedIn(number, Date.now() + 3_600_000)],
  );
  const account = new Account(url);
  await account.login('ada', 'old');
  await assert.rejects(account.changePassword('wrong', 'new'), SignInFailed);
  assert.equal(await account.token(), 'token 1');
  await account.changePassword('old', 'new');
  assert.equal(await account.token(), 'token 3');
  assert.deepEqual([asked[2].path, asked[2].old, asked[2].new], ['/api/v1/auth/password', 'old', 'new']);
});

test('refusals say why, and who signs out is out at once', async (t) => {
  const taken = { error: { code: 310, reason: 'name taken', message: 'Choose another name.' } };
  const [url] = await service(t, (number, path) =>
    path.endsWith('register') ? [409, taken] : path.endsWith('login') ? [429, {}] : [204, ''],
  );
  const tokens = new MemoryTokens();
  const account = new Account(url, { tokens });
  await assert.rejects(account.register('ada', 'x'), (error) => {
    assert.ok(error instanceof SignInFailed);
    assert.deepEqual([error.code, error.reason, error.tag], [310, 'Choose another name.', 'name taken']);
    return true;
  });
  await assert.rejects(account.login('ada', 'x'), (error) => {
    assert.ok(error instanceof Unreachable);
    assert.equal(error.code, 400);
    return true;
  });
  tokens.save({ access_token: 'a', refresh_token: 'r', expires_ms: 1 });
  await account.logout();
  assert.equal(account.tokens, null);
  await assert.rejects(new Account('parlance://127.0.0.1:1').guest(), Unreachable);
});
