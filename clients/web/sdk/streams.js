// AI answers on their way, put together by byte offset, and the questions that they ask about
// tools (docs/protocol.md §8). No I/O.

import { EndReason, MsgKind, StreamPart, StreamState } from './messages.js';

/** Streams followed at once; beyond it the one begun first is dropped. Its message still comes. */
export const STREAMS_MAX = 64;
/** Far above what a server asks one user at once; the oldest goes first. */
export const QUESTIONS_MAX = 64;

const PARTS = Object.keys(StreamPart).length;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 (IEEE 802.3) of bytes. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * One running answer as far as it has arrived. ask: seq of the question, 0 when its start was
 * missed; state: 0 queued or 1 running; place: in the queue, 0 when unknown or when it does not wait.
 */
export class Stream {
  constructor(sid, conv, persona, ask, state) {
    this.sid = sid;
    this.conv = conv;
    this.persona = persona;
    this.ask = ask;
    this.state = state;
    this.place = 0;
    this._texts = Array(PARTS).fill('');
    this._sizes = Array(PARTS).fill(0);
    this._opening = new Set();
  }

  /** What has arrived of a part. */
  text(part = StreamPart.ANSWER) {
    return this._texts[part];
  }

  /** The length in bytes of what has arrived of a part. */
  size(part = StreamPart.ANSWER) {
    return this._sizes[part];
  }

  /**
   * Append what is new of `text`, which begins at byte `off`; return that. null means that text is
   * missing before it: `open` from `size(part)` must be asked for.
   */
  add(part, off, text) {
    const have = this._sizes[part];
    if (off > have) return null;
    // Cuts fall between characters on both sides, so the overlap ends between two as well.
    const bytes = encoder.encode(text).subarray(have - off);
    const fresh = off < have ? decoder.decode(bytes) : text;
    this._texts[part] += fresh;
    this._sizes[part] += bytes.length;
    return fresh;
  }

  /** The question for what is missing, or null while it is being asked already. */
  wantOpen(part) {
    if (this._opening.has(part)) return null;
    this._opening.add(part);
    return { sid: this.sid, part, off: this._sizes[part] };
  }

  /** The answer to `wantOpen` came, or will not come. */
  openAnswered(part) {
    this._opening.delete(part);
  }
}

/**
 * The running answers of one user, over all connections.
 *
 * Methods return the events that follow. running: Map of streams by sid; wanted: `open` requests to
 * send, which the caller takes out; dropped: streams given up because there were too many.
 */
export class Streams {
  constructor() {
    this.running = new Map();
    this.wanted = [];
    this.dropped = 0;
    this._listed = new Set();
  }

  /** The running streams of a conversation, first begun first. */
  of(conv) {
    return [...this.running.values()].filter((stream) => stream.conv === conv);
  }

  /** Where to go on, for `hello` and `sync`; `resume` takes the answer. */
  positions() {
    this._listed = new Set(this.running.keys());
    return [...this.running.values()].slice(-16).map((stream) => ({
      sid: stream.sid,
      conv: stream.conv,
      persona: stream.persona,
      part: StreamPart.ANSWER,
      off: stream.size(),
      place: 0,
    }));
  }

  /** Take the list of running streams; those we asked about that are not in it have ended. */
  resume(positions) {
    const out = [];
    const alive = new Set(positions.map((position) => position.sid));
    for (const sid of this._listed) {
      if (alive.has(sid)) continue;
      const stream = this.running.get(sid);
      if (stream === undefined) continue;
      this.running.delete(sid);
      out.push(ended(stream, { text: stream.text() }));
    }
    this._listed = new Set();
    return [...out, ...this.join(positions)];
  }

  /** Take a list of running streams that says nothing about others. */
  join(positions) {
    const out = [];
    for (const { sid, conv, persona, place } of positions) {
      if (!this.running.has(sid)) this._begin(new Stream(sid, conv, persona, 0, StreamState.RUNNING), out);
      this._move(this.running.get(sid), place ?? 0, out);
    }
    return out;
  }

  /** Questions asked on the lost connection are answered no more. */
  reconnected() {
    this.wanted = [];
    for (const stream of this.running.values()) stream._opening.clear();
  }

  /** Take `s_start`, also a repeated one. */
  start(frame) {
    const out = [];
    const known = this.running.get(frame.sid);
    if (known === undefined) {
      this._begin(new Stream(frame.sid, frame.conv, frame.persona, frame.ask, frame.state), out);
    } else {
      known.ask = frame.ask;
      known.state = frame.state;
    }
    return out;
  }

  /** Take `s_queued`: a waiting stream has moved. */
  queued({ sid, place }) {
    const out = [];
    const stream = this.running.get(sid);
    if (stream !== undefined) {
      if (!place) stream.state = StreamState.RUNNING;
      this._move(stream, place, out);
    }
    return out;
  }

  /** Take `s_delta`: append, skip an overlap, or ask for what is missing before it. */
  delta({ sid, part, off, text }) {
    const stream = this.running.get(sid);
    return stream === undefined || part >= PARTS ? [] : this._add(stream, part, off, text);
  }

  /** Take the answer to `open`. */
  opened({ sid, state, part, off, text, place }) {
    const stream = this.running.get(sid);
    if (stream === undefined || part >= PARTS) return [];
    stream.openAnswered(part);
    stream.state = state;
    const out = [];
    this._move(stream, place ?? 0, out);
    return [...out, ...this._add(stream, part, off, text)];
  }

  /** `open` was refused; the next delta that leaves a hole asks again. */
  openFailed({ sid, part }) {
    this.running.get(sid)?.openAnswered(part);
  }

  /**
   * Take `s_end`. Returns the events, the message it stands for or null, and whether a message
   * exists that it could not stand for (text was missing or differed), so that it must be fetched.
   */
  end(frame) {
    const stream = this.running.get(frame.sid);
    this.running.delete(frame.sid);
    let text = stream?.text() ?? '';
    // It was taken back: nobody shows it any more.
    if (frame.reason === EndReason.FILTERED && !frame.rev && !frame.total) text = '';
    const event = ended(frame, {
      seq: frame.seq,
      reason: frame.reason,
      code: frame.code ?? 0,
      detail: frame.detail ?? '',
      text,
    });
    if (!frame.rev) return { events: [event], push: null, missing: false };
    const whole = stream?.size() === frame.total && crc32(encoder.encode(text)) === frame.crc;
    if (!whole) return { events: [event], push: null, missing: true };
    const x = { persona: stream.persona || undefined, sid: frame.sid, finish: frame.reason };
    if (frame.usage) x.usage = frame.usage;
    if (frame.ask) x.ask = frame.ask;
    const { conv, rev, seq, ts } = frame;
    const push = { t: 'msg', conv, rev, seq, ts, sender: stream.persona, kind: MsgKind.AI_REPLY, text, x };
    return { events: [event], push, missing: false };
  }

  /** A message is in the view: the stream it was made by, if any, is over. */
  stored(conv, msg) {
    const sid = msg.x?.sid;
    const stream = sid ? this.running.get(sid) : undefined;
    if (stream === undefined) return [];
    this.running.delete(sid);
    return [ended(stream, { seq: msg.seq, reason: msg.x.finish ?? null, text: msg.text })];
  }

  _move(stream, place, out) {
    if (place) stream.state = StreamState.QUEUED;
    if (place !== stream.place) {
      stream.place = place;
      out.push({ type: 'streamMoved', sid: stream.sid, conv: stream.conv, place });
    }
  }

  _begin(stream, out) {
    if (this.running.size >= STREAMS_MAX) {
      const [oldest] = this.running.values();
      this.running.delete(oldest.sid);
      this.dropped += 1;
      out.push(ended(oldest, {}));
    }
    this.running.set(stream.sid, stream);
    const { sid, conv, persona, ask } = stream;
    out.push({ type: 'streamStarted', sid, conv, persona, ask });
  }

  _add(stream, part, off, text) {
    const begins = stream.size(part);
    const fresh = stream.add(part, off, text);
    if (fresh === null) {
      const wanted = stream.wantOpen(part);
      if (wanted !== null) this.wanted.push(wanted);
      return [];
    }
    if (fresh === '') return [];
    stream.state = StreamState.RUNNING;
    stream.place = 0;
    return [{ type: 'streamText', sid: stream.sid, conv: stream.conv, part, off: begins, text: fresh }];
  }
}

function ended({ sid, conv }, known) {
  const unknown = { seq: 0, reason: null, code: 0, detail: '', text: '' };
  return { type: 'streamEnded', sid, conv, ...unknown, ...known };
}

/** Questions whether a tool may run that the user has not answered yet. */
export class Questions {
  constructor() {
    this._open = new Map();
  }

  /** What is being asked, oldest first. */
  get open() {
    return [...this._open.values()];
  }

  /** Take `tool_ask`, also a repeated one. */
  asked({ sid, conv, call, name, args, left, until }) {
    const key = `${sid}/${call}`;
    if (this._open.has(key)) return [];
    const event = { type: 'toolAsked', sid, conv, call, name, args, left, until };
    this._open.set(key, event);
    const [oldest] = this._open.values();
    return this._open.size > QUESTIONS_MAX ? [event, ...this._forget([oldest])] : [event];
  }

  /** Take `tool_settled`; a question that is not known says nothing to anybody. */
  settled({ sid, call, state }) {
    const asked = this._open.get(`${sid}/${call}`);
    if (asked === undefined) return [];
    this._open.delete(`${sid}/${call}`);
    return [{ type: 'toolSettled', sid, call, name: asked.name, outcome: state }];
  }

  /** An answer that is over asks nothing any more. */
  streamEnded(sid) {
    return this._forget(this.open.filter((asked) => asked.sid === sid));
  }

  /** The server tells a new connection all that is still open. */
  reconnected() {
    return this._forget(this.open);
  }

  _forget(gone) {
    return gone.map(({ sid, call, name }) => {
      this._open.delete(`${sid}/${call}`);
      return { type: 'toolSettled', sid, call, name, outcome: null };
    });
  }
}
