/**
 * Bots, for Node: accounts that answer what people write to them.
 *
 *     await new Bot('parlance://127.0.0.1:8420', 'Echo').run(({ text }) => text.toUpperCase());
 *
 * Guarantees. Every text that a person writes in a conversation of the bot is given to it at least
 * once, in the order of the conversation, also if it came while the bot or the server was away; a
 * reply is stored once, although the message may be given again. Bots do not hear one another, and
 * no persona answers them. One message is handled at a time.
 */

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { Account, Client, ConvKind, FileState, Link, MsgKind, ServerError } from './client.js';
import { ClientError, RequestTimeout, SignInFailed, Stopped } from './events.js';
import { AiMode } from './messages.js';

/** Key in `meta` of everything that bots write; its value is the name of the bot. */
export const BOT_MARK = 'bot';
/** Handled messages of one conversation that are held. */
export const KEPT_MAX = 200;

const PAGE = 50;
const PRIVATE = { mode: 0o600, flush: true };

/** What a person wrote: `text`, the id of its `sender`, the conversation `conv`, the whole `row`. */
export class Message {
  #bot;
  #replies = 0;

  constructor(bot, conv, row) {
    this.#bot = bot;
    this.conv = conv;
    this.sender = row.sender;
    this.text = row.text;
    this.row = row;
  }

  /**
   * Write into the conversation; true once the server has stored it.
   *
   * The same reply to the same message is stored once, whoever crashes in between. False when the
   * server refused it for good, such as to a bot that was muted or removed.
   *
   * @throws {InvalidText} the text can never be accepted
   */
  async reply(text) {
    const cid = new Uint8Array(16);
    const view = new DataView(cid.buffer);
    view.setBigUint64(0, BigInt(this.conv));
    view.setBigUint64(8, (BigInt(this.row.seq) << 16n) | BigInt(this.#replies));
    this.#replies += 1;
    const x = { ai: AiMode.NONE, meta: { [BOT_MARK]: this.#bot.name } };
    try {
      await this.#bot.client.send(this.conv, text, { x, cid });
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      console.error(`${this.#bot.name}: a reply was refused: ${error.message}`);
      return false;
    }
    return true;
  }
}

/**
 * An account, its connection (`client`), and what it has not handled yet.
 *
 * The account is made at the first start, as a guest of this name, and is the same at later ones:
 * its tokens, its outbox and how far it has read are kept in `folder`. People find it by its name.
 */
export class Bot {
  #account;
  #password;
  #handled;
  #told = null;
  #closing = null;

  /** `password`: `name` is an account that exists. The rest is as in bot.d.ts. */
  constructor(url, name, { password = '', folder = stateFolder(), ...options } = {}) {
    this.name = name;
    this.#password = password;
    const key = createHash('sha256').update(`${name} ${url}`).digest('hex').slice(0, 16);
    this.#account = new Account(url, { tokens: new FileTokens(folder, `${key}.js.tokens`) });
    this.#handled = new Handled(join(folder, `${key}.js.handled`));
    this.client = new Client(url, (renew) => this.#token(renew), {
      state: new FileState(join(folder, `${key}.js.outbox`)),
      agent: 'Parlance bot/javascript',
      ...options,
    });
  }

  /**
   * Reply with what `answer` returns or resolves with, if anything, until Ctrl-C; says on stdout
   * how it goes. A message for which `answer` throws is reported and passed over. Ends with a
   * sentence, and an exit code of 1, when the server does not let the bot in or the same bot runs
   * in another process.
   */
  async run(answer) {
    const leave = () => this.close();
    process.once('SIGINT', leave);
    this.client.addEventListener('linkChanged', (event) => this.#tell(event));
    try {
      await this.#answerAll(answer);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      console.error(`${this.name}: ${error.message}`);
      process.exitCode = 1;
    } finally {
      process.off('SIGINT', leave);
      await this.close();
    }
  }

  async #answerAll(answer) {
    for await (const message of this.messages()) {
      try {
        const text = await answer(message);
        if (text) await message.reply(text);
      } catch (error) {
        if (error instanceof Stopped) throw error;
        console.error(`${this.name}: no answer:`, error);
      }
    }
  }

  /** Leave: `messages` and `run` end. */
  close() {
    this.#closing ??= this.client.close().then(() => this.#handled.save());
    return this.#closing;
  }

  // Says it when the connection comes and goes, once however often it is tried.
  #tell({ link, reason }) {
    if (link === this.#told || ![Link.ONLINE, Link.OFFLINE].includes(link)) return;
    this.#told = link;
    if (link === Link.ONLINE) console.log(`${this.name} is online: write to it. Ctrl-C ends it.`);
    else console.log(`${this.name} is offline and keeps trying: ${reason}`);
  }

  // The token source of the client, which tries again after failures of the network.
  async #token(renew) {
    if (this.#account.tokens !== null) {
      try {
        return await this.#account.token(renew);
      } catch (error) {
        if (!(error instanceof SignInFailed)) throw error;
        // The store was replaced, or the bot was away for too long.
        console.error(`${this.name} was signed out: ${error.reason}`);
      }
    }
    const signIn = this.#password
      ? this.#account.login(this.name, this.#password)
      : this.#account.guest(this.name);
    return (await signIn).access_token;
  }

  /**
   * What people write, beginning with what came while the bot was away, as `Message`s.
   *
   * Connects when it is first asked. A message counts as handled when the next one is asked for. In
   * a group it begins with what was written after the bot came in. Ends when the bot is closed.
   *
   * @throws {StateInUse} the same bot runs in another process
   * @throws {Stopped} the server does not let the bot in
   */
  async *messages() {
    const events = this.client.events();
    for (const type of ['convGone', 'convReset', 'forgotten']) {
      this.client.addEventListener(type, this.#follow);
    }
    try {
      await this.client.start();
      await this.client.waitOnline();
      for await (const conv of this.#conversations()) yield* this.#newIn(conv);
      for await (const event of events) {
        for (const conv of this.#touched(event)) yield* this.#newIn(conv);
      }
    } catch (error) {
      if (!(error instanceof Stopped) || error.reason !== 'closed') throw error;
    } finally {
      events.close();
    }
  }

  async *#conversations() {
    let cursor = '';
    const listed = new Set();
    do {
      const page = await persist(() => this.client.conversationPage(cursor));
      for (const { id, last_seq: last } of page.rows) {
        listed.add(id);
        this.#handled.lower(id, last ?? 0);
        yield id;
      }
      cursor = page.cursor;
    } while (cursor !== '');
    this.#handled.retain(listed);
  }

  // Forgets at once what does not hold any more, also while a message is handled.
  #follow = ({ type, conv }) => {
    if (type === 'convGone') this.#handled.forget(conv);
    else if (type === 'forgotten') this.#handled.retain(new Set());
    else this.#handled.lower(conv, this.client.feeds.convs.get(conv)?.lastSeq ?? 0);
  };

  // The conversations in which there may be something new.
  #touched({ type, conv, link, reason, code }) {
    if (['messageAdded', 'convChanged', 'convReset'].includes(type)) return [conv];
    if (type === 'lagged') return [...this.client.feeds.convs.keys()];
    if (link === Link.STOPPED) throw new Stopped(reason, code);
    return [];
  }

  // Yields what was not handled in a conversation, and marks it as read.
  async *#newIn(conv) {
    try {
      for (;;) {
        const view = this.client.feeds.convs.get(conv);
        if (view === undefined || view.left) return;
        const done = this.#handled.of(conv);
        if (done === undefined) {
          await this.#handled.begin(conv, await this.#beginAt(view));
          continue;
        }
        if (done >= view.lastSeq) return;
        const row = view.messages.get(done + 1) ?? (await this.#load(conv, done));
        if (row !== undefined && this.#isForUs(row)) yield new Message(this, conv, row);
        if (this.#handled.of(conv) === done) this.#handle(view, row?.seq ?? done + 1);
      }
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      // Removed from it in the meantime, say. The next message there begins anew.
      console.error(`${this.name}: a conversation cannot be read: ${error.message}`);
    }
  }

  #handle(view, seq) {
    this.#handled.put(view.conv, seq);
    this.client.mark(view.conv, seq);
    this.client.feeds.trim(view.conv, KEPT_MAX + view.lastSeq - seq);
  }

  // The number of the last message that was handled, or is not for the bot.
  async #beginAt(view) {
    const { read, min_seq: min, joined_seq: joined } = view.my;
    const floor = Math.max(read ?? 0, min ?? 0, joined ?? 0);
    if (view.row.kind !== ConvKind.GROUP) return floor;
    const { members } = await persist(() => this.client.getConversation(view.conv));
    const came = members.find(({ user }) => user === this.client.user)?.joined;
    if (came === undefined) return view.lastSeq;
    const { msgs } = await persist(() => this.client.history(view.conv, 0, { limit: PAGE }));
    const before = msgs.filter(({ ts }) => ts < came).map(({ seq }) => seq);
    const oldest = msgs.length > 0 ? Math.min(...msgs.map(({ seq }) => seq)) : 1;
    return Math.max(floor, oldest - 1, ...before);
  }

  // The first message after `seq`, if there is one.
  async #load(conv, seq) {
    const ask = () => this.client.history(conv, seq, { back: false, limit: PAGE });
    const { msgs } = await persist(ask);
    return msgs.sort((a, b) => a.seq - b.seq)[0];
  }

  #isForUs({ kind, sender, text, x }) {
    if (kind !== MsgKind.TEXT || sender === this.client.user || text === '') return false;
    return !(x?.recalled || x?.meta?.[BOT_MARK]);
  }
}

/** Tokens of an `Account` in a file that only its owner can read. */
class FileTokens {
  #folder;
  #path;

  constructor(folder, name) {
    this.#folder = folder;
    this.#path = join(folder, name);
  }

  load() {
    return readJson(this.#path);
  }

  save(tokens) {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    writeFileSync(`${this.#path}.new`, JSON.stringify(tokens), PRIVATE);
    renameSync(`${this.#path}.new`, this.#path);
  }

  exclusive(work) {
    return work();
  }
}

/**
 * How far each conversation was handled; on disk soon after.
 *
 * The server's read cursor does not say it: to write counts as having read everything before.
 */
class Handled {
  #path;
  #seqs = new Map();
  #saving = null;
  #dirty = false;

  constructor(path) {
    this.#path = path;
    const kept = readJson(path);
    for (const [conv, seq] of Object.entries(kept ?? {})) this.#seqs.set(Number(conv), seq);
  }

  /** The number of the last message handled; undefined for a new conversation. */
  of(conv) {
    return this.#seqs.get(conv);
  }

  put(conv, seq) {
    this.#seqs.set(conv, seq);
    this.save();
  }

  /** Put it, and resolve when it is on disk: before the first reply. */
  begin(conv, seq) {
    this.#seqs.set(conv, seq);
    return this.save();
  }

  /** The conversation ends here: more was handled if its store was restored from a backup. */
  lower(conv, lastSeq) {
    if ((this.#seqs.get(conv) ?? 0) > lastSeq) this.put(conv, lastSeq);
  }

  /** The bot is not in it any more. */
  forget(conv) {
    this.#seqs.delete(conv);
    this.save();
  }

  /** Forget all others. */
  retain(convs) {
    for (const conv of [...this.#seqs.keys()]) if (!convs.has(conv)) this.forget(conv);
  }

  /** Resolve when everything is on disk. One write at a time, whatever happens meanwhile. */
  save() {
    this.#dirty = true;
    this.#saving ??= this.#write().finally(() => {
      this.#saving = null;
    });
    return this.#saving;
  }

  async #write() {
    while (this.#dirty) {
      this.#dirty = false;
      try {
        await writeFile(`${this.#path}.new`, JSON.stringify(Object.fromEntries(this.#seqs)), PRIVATE);
        await rename(`${this.#path}.new`, this.#path);
      } catch (error) {
        // A full disk must not keep the bot from answering.
        console.error(`parlance: what was handled could not be saved: ${error.message}`);
      }
    }
  }
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return null;
  }
}

/** Ask until there is an answer: the server may be away for longer than a request waits. */
async function persist(ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof RequestTimeout)) throw error;
    }
  }
}

function stateFolder() {
  const base = process.env.XDG_STATE_HOME || join(homedir(), '.local', 'state');
  return join(base, 'parlance', 'bots');
}
