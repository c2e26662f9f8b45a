/**
 * A client in a process of its own, for test_js_client.py: every line that comes in
 * is a JSON object whose `do` names an action, every line that goes out is its result.
 */

import { createInterface } from 'node:readline';

import {
  Account,
  Client,
  ConvKind,
  FileState,
  MemoryState,
  MemoryTokens,
  MsgKind,
  Scope,
  StreamPart,
} from '../../../clients/web/sdk/client.js';

const QUICK = { backoff: 100, backoffMax: 500, firstRetry: 50 };

let client;
const posted = [];
/** What arrived of each answer, put together from the events alone. */
const streamed = new Map();
const faults = [];

function follow({ type, sid, off, text, part }) {
  if (type !== 'streamText' || part !== StreamPart.ANSWER) return;
  const held = streamed.get(sid) ?? '';
  if (Buffer.byteLength(held) !== off) faults.push(`text at ${off} twice or with a hole`);
  streamed.set(sid, held + text);
}

async function until(holds) {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 10));
}

const ACTIONS = {
  async start({ url, http, state, tokens }) {
    const kept = new MemoryTokens();
    kept.save(tokens);
    const account = new Account(http, { tokens: kept });
    if (tokens === null) await account.guest('Ada');
    client = new Client(url, account.token, {
      state: state === null ? new MemoryState() : new FileState(state),
      timing: QUICK,
    });
    client.addEventListener('*', follow);
    await client.start();
    return kept.load();
  },

  async online() {
    await client.waitOnline(60_000);
    return { user: client.user, connects: client.connects };
  },

  async talk() {
    const { items } = await client.personaPage(Scope.PUBLIC);
    const { row } = await client.createConversation(ConvKind.AI, { persona: items[0].id });
    await client.watch([row.id]);
    return row.id;
  },

  async group() {
    return (await client.createConversation(ConvKind.GROUP, { title: '房间' })).row.id;
  },

  async post({ conv, texts }) {
    posted.push(...texts.map((text) => client.post(conv, text)));
    return posted.length;
  },

  async flush() {
    return (await Promise.all(posted.map((entry) => entry.acknowledged))).map((sent) => sent.seq);
  },

  async emptied() {
    await until(() => client.unsent.length === 0);
    return null;
  },

  async ask({ conv, text, model }) {
    const { sid } = await client.send(conv, text, { x: { opt: { model } } });
    return sid;
  },

  async began({ sid }) {
    await until(() => (streamed.get(sid) ?? '') !== '');
    return null;
  },

  async answer({ conv, sid }) {
    const rows = () => client.feeds.convs.get(conv).list();
    const mine = () => rows().filter((row) => row.kind === MsgKind.AI_REPLY && row.x?.sid === sid);
    await until(() => mine().length > 0 && !client.streams.running.has(sid));
    return { streamed: streamed.get(sid), stored: mine().map((row) => row.text), faults };
  },

  /** Every answer of a conversation, once none is being made any more. */
  async answers({ conv }) {
    const made = () => client.feeds.convs.get(conv).list().filter((row) => row.x?.sid);
    await until(() => made().length > 0 && client.streams.running.size === 0);
    return made().map((row) => row.text);
  },

  async regenerate({ conv, model }) {
    return (await client.regenerate(conv, 0, { opt: { model } })).sid;
  },

  async cancel({ sid }) {
    await client.cancel(sid);
    return null;
  },

  async rows({ conv }) {
    await client.history(conv, 0, { limit: 100 });
    return client.feeds.convs.get(conv).list().map(({ seq, sender, text }) => [seq, sender, text]);
  },

  /** One round through the requests that have no test of their own. */
  async everything() {
    const conv = await ACTIONS.group();
    const { p } = await client.savePersona({ name: `猫 ${client.user}`, prompt: 'You are a cat.' });
    await client.savePersona({ id: p.id, name: `Cat ${client.user}` });
    const own = [];
    for await (const persona of client.personas(Scope.PRIVATE)) own.push(persona.name);
    const { seq } = await client.send(conv, '你好\r\n');
    await client.edit(conv, seq, '你好, edited');
    const edited = (await client.getMessages(conv, [seq])).msgs[0];
    await client.send(conv, 'gone soon');
    await client.recall(conv, seq + 1);
    await until(() => client.feeds.convs.get(conv).messages.get(seq + 1)?.x?.recalled);
    client.typing(conv);
    await client.changeMyView(conv, { pinned: true });
    await client.changeConversation(conv, { title: 'renamed' });
    await until(() => client.feeds.convs.get(conv).row.title === 'renamed');
    const convs = [];
    for await (const row of client.conversations()) convs.push(row.id);
    const usage = await client.usage();
    const [me] = await client.getUsers([client.user]);
    const devices = await client.listDevices();
    await client.dropPersona(p.id);
    const refused = await client.edit(conv, 99, 'no such message').catch((error) => error.code);
    return {
      conv,
      own,
      edited: edited.text,
      unread: client.feeds.convs.get(conv).unread,
      listed: convs.includes(conv),
      used: usage.today.used_in,
      nick: me.nick,
      devices: devices.length,
      refused,
    };
  },

  async close() {
    await client.close();
    return client.unsent.length;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...fields } = JSON.parse(line);
  let answer;
  try {
    answer = { result: await ACTIONS[name](fields) };
  } catch (error) {
    answer = { error: String(error.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
