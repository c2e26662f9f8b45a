// Tells for frames on standard input, one "c2s HEX" or "s2c HEX" a line (without headers), what
// this implementation does with them: the encoding it would give back, or how it refuses.

import { createInterface } from "node:readline";

import { decode, decodeClient, encode } from "../../../clients/web/sdk/codec.js";

function outcome(line) {
  const [dir, hex] = line.split(" ");
  const payload = new Uint8Array(Buffer.from(hex, "hex"));
  try {
    const message = (dir === "c2s" ? decodeClient : decode)(payload);
    return Buffer.from(encode(message.t, message)).toString("hex");
  } catch (error) {
    if (error.name !== "ProtocolError") return error.stack.replaceAll("\n", " ");
    return `${error.closes ? "close" : "err"}:${error.code} ${error.rid}`;
  }
}

for await (const line of createInterface({ input: process.stdin })) console.log(outcome(line));
