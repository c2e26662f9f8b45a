import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ProtocolError, decode, decodeClient, decodeClientJson, encode, encodeJson, peek } from "../codec.js";
import { FrameDecoder, HEADER_BYTES, cutMessage, joinFrame, setHeader } from "../frames.js";
import { MESSAGES } from "../messages.js";
import { Reader, Writer, isLongerThan, utf8Length } from "../msgpack.js";
import { readLines } from "../../../../tests/clients/js/vector_lines.mjs";

const MAX = Number.MAX_SAFE_INTEGER;
const CID = Uint8Array.from({ length: 16 }, (_, at) => at);
const SEND = { rid: 7, conv: 10, cid: CID, kind: 0, text: "hi" };

const payloadOf = (name, fields) => encode(name, fields).subarray(HEADER_BYTES);
const sendText = (text) => decodeClient(payloadOf("send", { ...SEND, text })).text;
const reasonOf = (act) => {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof ProtocolError, error.stack);
    return error.reason;
  }
  return assert.fail("nothing was refused");
};

/** A small generator of repeatable random numbers below a bound (xorshift32). */
function makeRandom(seed) {
  let state = seed;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}

test("integers are exact at every width, up to 53 bits and below zero", () => {
  const edges = [0, 1, 0x1f, 0x20, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 2 ** 31, 2 ** 32 - 1];
  edges.push(2 ** 32, 2 ** 32 + 1, 2 ** 40 + 3, 2 ** 52 + 1, MAX - 1, MAX);
  const writer = new Writer();
  for (const value of [...edges, ...edges.map((edge) => -edge), -33, -129, -32769, -(2 ** 31) - 1]) {
    writer.start();
    writer.int(value);
    const reader = new Reader(writer.take());
    assert.equal(reader.int(-MAX, MAX), value + 0);
    assert.ok(reader.done);
  }
  for (const n of [MAX, MAX - 1, 2 ** 52 + 1]) assert.equal(decodeClient(payloadOf("ping", { n })).n, n);
});

test("what is no integer in bounds cannot be sent", () => {
  for (const n of [MAX + 1, -1, 1.5, NaN, Infinity, "1", 1n, true, null, undefined, {}]) {
    assert.throws(() => encode("ping", { n }), { code: 101 }, String(n));
  }
});

test("texts of every length come back, in every script", () => {
  for (const letter of ["a", "é", "你", "😀"]) {
    for (const length of [0, 1, 7, 8, 10, 24, 25, 31, 32, 63, 64, 127, 128, 129, 255, 256, 5000, 16000]) {
      const text = letter.repeat(length);
      assert.equal(sendText(text), text, `${letter} × ${length}`);
    }
  }
  assert.equal(sendText("\u{feff}x"), "\u{feff}x", "a byte order mark is a letter like others");
});

test("bounds count code points, not UTF-16 units", () => {
  assert.equal(sendText("😀".repeat(32_000)).length, 64_000);
  assert.throws(() => sendText("😀".repeat(32_001)), { code: 101 });
  assert.equal(isLongerThan("a😀", 2), false);
  assert.equal(isLongerThan("a😀b", 2), true);
});

test("half of a surrogate pair can be sent in neither encoding", () => {
  for (const text of ["\ud83d", "a\ude00", "\ud83d\ud83d\ude00", "x".repeat(200) + "\ud83d"]) {
    assert.equal(utf8Length(text), -1);
    assert.throws(() => encode("send", { ...SEND, text }), { code: 101 });
    assert.throws(() => encodeJson("send", { ...SEND, text }), { code: 101 });
  }
});

test("a refusal names the field and quotes nothing", () => {
  assert.equal(reasonOf(() => encode("send", { ...SEND, cid: CID.subarray(1) })), "send.cid: expected 16 bytes");
  assert.equal(reasonOf(() => encode("send", { rid: 7 })), "send.conv: missing");
  const x = { meta: { secret: "s".repeat(300) } };
  assert.equal(reasonOf(() => encode("send", { ...SEND, x })), "SendX.meta: text too long");
  const cut = payloadOf("send", { ...SEND, text: "secret" }).subarray(0, -3);
  assert.equal(reasonOf(() => decodeClient(cut)), "send.text: ends too early");
  assert.equal(reasonOf(() => decodeClientJson('{"t":"ping","n":"secret"}')), "ping.n: expected an integer");
});

test("unknown names cannot be sent", () => {
  for (const name of ["react", "", "toString", "__proto__"]) {
    assert.throws(() => encode(name, {}), { code: 102 }, name);
  }
});

test("absent fields get their defaults in rows and are left out of entities", () => {
  assert.deepEqual(decode(payloadOf("bye", { code: 503, reason: "" })), {
    t: "bye", code: 503, reason: "", retry: -1, spread_ms: 0,
  });
  const sent = decodeClient(payloadOf("send", { ...SEND, x: { quote: 3, opt: null, fmt: undefined } }));
  assert.deepEqual(sent, { t: "send", ...SEND, x: { quote: 3 } });
  assert.equal(decodeClient(payloadOf("send", SEND)).x, null);
});

test("keys of meta that mean something to JavaScript are keys like others", () => {
  const meta = JSON.parse('{"__proto__":"a","constructor":"b","toString":"c"}');
  const back = decodeClient(payloadOf("send", { ...SEND, x: { meta } })).x.meta;
  assert.deepEqual(Object.entries(back), Object.entries(meta));
  const twin = decodeClientJson(encodeJson("send", { ...SEND, x: { meta } })).x.meta;
  assert.deepEqual(Object.entries(twin), Object.entries(meta));
  assert.equal({}.a, undefined);
});

test("frames stay as they are while others are encoded", () => {
  const texts = Array.from({ length: 400 }, (_, at) => `${at} `.repeat(at));
  const frames = texts.map((text) => encode("send", { ...SEND, text }));
  assert.throws(() => encode("send", { ...SEND, text: 5 }));
  frames.forEach((frame, at) => {
    const [payload] = cutMessage(frame, 0xffffff);
    assert.equal(decodeClient(payload).text, texts[at]);
  });
});

test("decoded binary does not change with the buffer it came from", () => {
  for (const make of [(bytes) => new Uint8Array(bytes), (bytes) => Buffer.from(bytes)]) {
    const payload = make(payloadOf("send", SEND));
    const { cid } = decodeClient(payload);
    payload.fill(0);
    assert.deepEqual(cid, CID);
  }
});

test("every strict beginning of a message is refused", () => {
  for (const line of readLines("messages")) {
    if (line.hex.length > 800) continue;
    const payload = new Uint8Array(Buffer.from(line.hex, "hex")).subarray(HEADER_BYTES);
    for (let length = 0; length < payload.length; length++) {
      const read = line.dir === "c2s" ? decodeClient : decode;
      assert.throws(() => read(payload.subarray(0, length)), { code: 101 }, line.name);
    }
  }
});

test("the bounds of a view are kept, whatever lies behind it in memory", () => {
  const memory = new Uint8Array(64).fill(0x05);
  memory.set([0x92, 0x05, 0xcd], 20);
  assert.throws(() => decodeClient(memory.subarray(20, 23)), { code: 101 });
});

test("random bytes are refused and never throw anything else", () => {
  const random = makeRandom(7);
  for (let round = 0; round < 20_000; round++) {
    const payload = Uint8Array.from({ length: random(40) }, () => random(256));
    if (payload.length > 1) payload.set([0x91 + random(14), 1 + random(127)]);
    for (const read of [decode, decodeClient]) {
      try {
        assert.equal(typeof read(payload).t, "string");
      } catch (error) {
        assert.ok(error instanceof ProtocolError, error.stack);
      }
    }
  }
});

test("a stream cut anywhere gives the same payloads", () => {
  const random = makeRandom(9);
  const payloads = Array.from({ length: 60 }, () => new Uint8Array(1 + random(3) * random(900)).fill(random(256)));
  const stream = Buffer.concat(payloads.map(joinFrame));
  for (let round = 0; round < 50; round++) {
    const decoder = new FrameDecoder(4096);
    const got = [];
    for (let at = 0; at < stream.length; ) {
      const to = at + 1 + random(round < 25 ? 9 : 3000);
      // A fresh buffer each time, overwritten afterwards as a socket might.
      const piece = new Uint8Array(stream.subarray(at, to));
      got.push(...decoder.feed(piece).map((payload) => payload.slice()));
      piece.fill(0xff);
      at = to;
    }
    assert.equal(decoder.error, null);
    assert.equal(decoder.bufferedBytes, 0);
    assert.deepEqual(got, payloads);
  }
});

test("a WebSocket message holds whole frames", () => {
  const frame = encode("ping", { n: 1 });
  assert.equal(cutMessage(Buffer.concat([frame, frame]), 100).length, 2);
  assert.throws(() => cutMessage(frame.subarray(0, 5), 100), { code: 100, closes: true });
  assert.throws(() => cutMessage(frame, 2), { code: 103, closes: true });
  assert.throws(() => setHeader(new Uint8Array(HEADER_BYTES)), { code: 103 });
});

test("code and request id of a frame are found without decoding it", () => {
  assert.deepEqual(peek(payloadOf("conv_drop", { rid: 2 ** 32 - 1, conv: 1 })), [47, 2 ** 32 - 1]);
  assert.deepEqual(peek(new Uint8Array()), [0, 0]);
  assert.deepEqual(peek(Uint8Array.of(0x92, 0x05, 0xcd, 0x01)), [5, 0]);
});

test("every request has a reply that a server may send", () => {
  for (const [name, entry] of Object.entries(MESSAGES)) {
    const isRequest = entry.from === "C" && entry.fields.startsWith("rid:Rid");
    assert.equal(isRequest, entry.reply !== undefined, name);
    if (isRequest) assert.equal(MESSAGES[entry.reply].from, "S", name);
  }
});

test("the declarations name what the modules export", async () => {
  for (const name of ["codec", "frames", "json", "messages", "msgpack"]) {
    const text = readFileSync(new URL(`../${name}.d.ts`, import.meta.url), "utf8");
    const declared = text.matchAll(/^export (?:declare (?:const|function|class) (\w+)|\{ (\w+) \})/gm);
    const names = [...declared].map(([, own, passedOn]) => own ?? passedOn).sort();
    assert.deepEqual(names, Object.keys(await import(`../${name}.js`)).sort(), name);
  }
});
