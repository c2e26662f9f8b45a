// Reads the lines of vector files with every counted run written out (protocol/vectors/README.md).

import { readFileSync } from "node:fs";

const FOLDER = new URL("../../../protocol/vectors/", import.meta.url);

const joinParts = (parts) =>
  typeof parts === "string"
    ? parts
    : parts.map((part) => (typeof part === "string" ? part : part[0].repeat(part[1]))).join("");

function expandJson(value) {
  if (Array.isArray(value)) return value.map(expandJson);
  if (typeof value !== "object" || value === null) return value;
  const keys = Object.keys(value);
  if (keys.length === 1 && keys[0] === "$repeat") {
    const [one, times] = value.$repeat;
    return typeof one === "string" ? one.repeat(times) : Array(times).fill(one).flat(1);
  }
  return Object.fromEntries(keys.map((key) => [key, expandJson(value[key])]));
}

/** Return the lines of one vector file. */
export function readLines(name) {
  const text = readFileSync(new URL(`${name}.jsonl`, FOLDER), "utf8");
  return text.trimEnd().split("\n").map((row) => {
    const line = JSON.parse(row);
    for (const key of ["hex", "text"]) if (key in line) line[key] = joinParts(line[key]);
    for (const key of ["chunks", "payloads"]) if (key in line) line[key] = line[key].map(joinParts);
    if ("json" in line) line.json = expandJson(line.json);
    return line;
  });
}
