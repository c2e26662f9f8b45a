// This implementation meets every vector of protocol/vectors (its README says what the keys mean).

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  decode, decodeClient, decodeClientJson, decodeJson, encode, encodeJson,
} from "../codec.js";
import { FrameDecoder, PREFACE, cutMessage } from "../frames.js";
import { readLines } from "../../../../tests/clients/js/vector_lines.mjs";

const BINARY_FILES = ["messages", "evolution", "bounds", "hostile"];
const unhex = (text) => new Uint8Array(Buffer.from(text, "hex"));
const hex = (bytes) => Buffer.from(bytes).toString("hex");

/** Return what a receiver does, in the words of the vectors. */
function outcome(decodeOne, data) {
  try {
    decodeOne(data);
  } catch (error) {
    assert.equal(error.name, "ProtocolError", error.stack);
    return [`${error.closes ? "close" : "err"}:${error.code}`, error.rid];
  }
  return ["ok", 0];
}

for (const file of BINARY_FILES) {
  const lines = readLines(file);

  test(`${file}: every frame is met as the vectors say`, () => {
    assert.ok(lines.length > 50);
    for (const line of lines) {
      const [payload] = cutMessage(unhex(line.hex), 0xffffff);
      const got = outcome(line.dir === "c2s" ? decodeClient : decode, payload);
      assert.deepEqual(got, [line.expect, line.rid ?? 0], line.name);
    }
  });
}

for (const file of ["messages", "bounds"]) {
  const lines = readLines(file).filter((line) => line.canonical);

  test(`${file}: canonical frames are reproduced`, () => {
    assert.ok(lines.length > 50);
    for (const line of lines) {
      const data = unhex(line.hex);
      const message = (line.dir === "c2s" ? decodeClient : decode)(data.subarray(4));
      assert.equal(hex(encode(message.t, message)), line.hex, line.name);
    }
  });
}

for (const file of ["messages", "evolution", "bounds"]) {
  const lines = readLines(file).filter((line) => line.json !== null);

  test(`${file}: JSON twins say the same`, () => {
    assert.ok(lines.length > 50);
    for (const line of lines) {
      const decodeText = line.dir === "c2s" ? decodeClientJson : decodeJson;
      const text = JSON.stringify(line.json);
      if (line.expect !== "ok") {
        assert.deepEqual(outcome(decodeText, text), [line.expect, line.rid], line.name);
        continue;
      }
      const message = (line.dir === "c2s" ? decodeClient : decode)(unhex(line.hex).subarray(4));
      assert.deepEqual(decodeText(text), message, line.name);
      assert.deepEqual(JSON.parse(encodeJson(message.t, message)), line.json, line.name);
    }
  });
}

test("bounds: what must not be received cannot be sent either", () => {
  let refused = 0;
  for (const line of readLines("bounds")) {
    if (line.expect === "ok" || line.json === null) continue;
    const { t, ...fields } = line.json;
    assert.throws(() => encode(t, unpackBytes(fields)), { name: "ProtocolError", code: 101 }, line.name);
    refused++;
  }
  assert.ok(refused > 100);
});

/** Turn base64 of ids into bytes, so that only what a line is about is wrong. */
function unpackBytes(value, key = "") {
  if (Array.isArray(value)) return value.map((inner) => unpackBytes(inner));
  if (typeof value === "string" && (key === "cid" || key === "device")) {
    return new Uint8Array(Buffer.from(value, "base64"));
  }
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, unpackBytes(v, k)]));
}

test("json: every text is met as the vectors say", () => {
  for (const line of readLines("json")) {
    assert.deepEqual(outcome(decodeClientJson, line.text), [line.expect, line.rid], line.name);
  }
});

test("framing: streams in pieces give the payloads, the error and the rest", () => {
  for (const line of readLines("framing")) {
    const decoder = new FrameDecoder(line.limit);
    const payloads = line.chunks.flatMap((chunk) => decoder.feed(unhex(chunk)).map(hex));
    const expect = decoder.error === null ? "ok" : `close:${decoder.error.code}`;
    assert.equal(expect, line.expect, line.name);
    assert.deepEqual(payloads, line.payloads, line.name);
    assert.equal(decoder.bufferedBytes, line.rest, line.name);
    if (decoder.error) assert.deepEqual(decoder.feed(unhex("00000003920501")), [], line.name);
  }
});

test("preface: ours is the one that is accepted", () => {
  const accepted = readLines("preface").filter((line) => line.expect === "ok");
  assert.deepEqual(accepted.map((line) => line.hex), [hex(PREFACE)]);
});
