/**
 * The types of the protocol as objects that read and write them, built once from messages.js.
 *
 * Each knows four things: `read` and `write` for MessagePack, `fromJson` and `toJson` for the JSON
 * mode. Writing checks as strictly as reading; what is refused throws `MsgpackError`.
 */

import { JsonFloat } from "./json.js";
import { ENTITIES, MESSAGES, ROWS, TYPES } from "./messages.js";
import { MsgpackError, isLongerThan, utf8Length } from "./msgpack.js";

export const MAX_CODE = 127;

/** The field being read or written, for reasons; set before each. */
export let place = "";

/** Say where reading or writing begins. */
export function beginAt(name) {
  place = name;
}

const wrong = (what) => new MsgpackError(what);

class Int {
  constructor([min, max]) {
    this.min = min;
    this.max = max;
  }

  read(reader) {
    return reader.int(this.min, this.max);
  }

  write(writer, value) {
    writer.int(this.fromJson(value));
  }

  fromJson(value) {
    if (!Number.isSafeInteger(value)) throw wrong("expected an integer");
    if (value < this.min || value > this.max) throw wrong("number out of bounds");
    return value;
  }

  toJson(value) {
    return this.fromJson(value);
  }
}

class Float {
  constructor([min, max]) {
    this.min = min;
    this.max = max;
  }

  read(reader) {
    return reader.float(this.min, this.max);
  }

  write(writer, value) {
    writer.float(this.toJson(value));
  }

  fromJson(value) {
    return this.toJson(value instanceof JsonFloat ? value.value : value);
  }

  toJson(value) {
    if (typeof value !== "number") throw wrong("expected a number");
    // Also refuses NaN.
    if (!(value >= this.min && value <= this.max)) throw wrong("number out of bounds");
    return value;
  }
}

const BOOL = {
  read: (reader) => reader.bool(),
  write: (writer, value) => writer.bool(BOOL.fromJson(value)),
  fromJson(value) {
    if (typeof value !== "boolean") throw wrong("expected true or false");
    return value;
  },
  toJson: (value) => BOOL.fromJson(value),
};

class Text {
  constructor(maxCodePoints) {
    this.max = maxCodePoints ?? Infinity;
  }

  read(reader) {
    return reader.text(this.max);
  }

  write(writer, value) {
    writer.text(this.fromJson(value));
  }

  fromJson(value) {
    if (typeof value !== "string") throw wrong("expected a text");
    if (isLongerThan(value, this.max)) throw wrong("text too long");
    return value;
  }

  toJson(value) {
    if (utf8Length(this.fromJson(value)) < 0) throw wrong("half of a surrogate pair");
    return value;
  }
}

class Bytes {
  constructor(length) {
    this.length = length;
  }

  read(reader) {
    return reader.bytes(this.length);
  }

  write(writer, value) {
    writer.bytes(this.#checked(value));
  }

  fromJson(value) {
    if (typeof value !== "string" || !isBase64(value)) throw wrong("expected base64");
    return this.#checked(Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0)));
  }

  toJson(value) {
    return btoa(String.fromCharCode(...this.#checked(value)));
  }

  #checked(value) {
    if (!(value instanceof Uint8Array) || value.length !== this.length) {
      throw wrong(`expected ${this.length} bytes`);
    }
    return value;
  }
}

const isBase64 = (text) =>
  text.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(text);

class List {
  constructor(item, min, max) {
    this.item = item;
    this.min = min;
    this.max = max;
  }

  read(reader) {
    const count = this.#checked(reader.array());
    const items = [];
    for (let left = count; left > 0; left--) items.push(this.item.read(reader));
    return items;
  }

  write(writer, value) {
    this.#expect(value);
    writer.array(value.length);
    for (let at = 0; at < value.length; at++) this.item.write(writer, value[at]);
  }

  fromJson(value) {
    return this.#expect(value).map((item) => this.item.fromJson(item));
  }

  toJson(value) {
    return this.#expect(value).map((item) => this.item.toJson(item));
  }

  #expect(value) {
    if (!Array.isArray(value)) throw wrong("expected a list");
    this.#checked(value.length);
    return value;
  }

  #checked(count) {
    if (count < this.min || count > this.max) throw wrong("too many or too few items");
    return count;
  }
}

class Dict {
  constructor(key, value, max) {
    this.key = key;
    this.value = value;
    this.max = max;
  }

  read(reader) {
    const count = reader.map();
    if (count > this.max) throw wrong("too many keys");
    const pairs = Object.create(null);
    for (let left = count; left > 0; left--) {
      const key = this.key.read(reader);
      pairs[key] = this.value.read(reader);
    }
    return pairs;
  }

  write(writer, value) {
    const keys = this.#keys(value);
    writer.map(keys.length);
    for (const key of keys) {
      this.key.write(writer, key);
      this.value.write(writer, value[key]);
    }
  }

  fromJson(value) {
    return this.#map(value, (inner) => this.value.fromJson(inner));
  }

  toJson(value) {
    return this.#map(value, (inner) => this.value.toJson(inner));
  }

  #map(value, translate) {
    const pairs = Object.create(null);
    for (const key of this.#keys(value)) pairs[this.key.toJson(key)] = translate(value[key]);
    return pairs;
  }

  #keys(value) {
    const keys = Object.keys(expectObject(value));
    if (keys.length > this.max) throw wrong("too many keys");
    return keys;
  }
}

function expectObject(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw wrong("expected an object");
  }
  return value;
}

/** One field: `isOptional` rows may end before it; `isNullable` it may be nil. */
class Field {
  constructor(owner, text, isEntity) {
    const colon = text.indexOf(":");
    const question = text.indexOf("?", colon);
    this.name = text.slice(0, colon);
    this.place = `${owner}.${this.name}`;
    this.typeName = question < 0 ? text.slice(colon + 1) : text.slice(colon + 1, question);
    const value = question < 0 ? "" : text.slice(question + 1);
    this.isOptional = isEntity || question >= 0;
    this.isNullable = this.isOptional && value === "";
    this.fallback = value === "" ? null : JSON.parse(value);
    this.type = null; // found when all shapes are known
  }

  read(reader) {
    place = this.place;
    return this.isNullable && reader.nil() ? null : this.type.read(reader);
  }

  write(writer, value) {
    place = this.place;
    if (value !== undefined && value !== null) this.type.write(writer, value);
    else if (this.isNullable) writer.nil();
    else if (value === undefined && this.isOptional) this.type.write(writer, this.fallback);
    else throw wrong("missing");
  }

  fromJson(value) {
    place = this.place;
    if (value === undefined && this.isOptional) return this.fallback;
    if (value === null && this.isNullable) return null;
    if (value === undefined) throw wrong("missing");
    return this.type.fromJson(value);
  }
}

/** The fields of a message, row or entity, and its JSON twin. */
class Shape {
  constructor(name, fields, isEntity) {
    this.name = name;
    this.fields = fields === "" ? [] : fields.split(" ").map((text) => new Field(name, text, isEntity));
    this.required = this.fields.filter((field) => !field.isOptional).length;
  }

  empty() {
    return {};
  }

  fromJson(value) {
    expectObject(value);
    const fields = this.empty();
    for (const field of this.fields) this.keep(fields, field, field.fromJson(value[field.name]));
    return fields;
  }

  toJson(value) {
    expectObject(value);
    const fields = this.empty();
    for (const field of this.fields) {
      place = field.place;
      const inner = value[field.name];
      if (inner === undefined || inner === null) {
        if (!field.isNullable && !(inner === undefined && field.isOptional)) throw wrong("missing");
      } else if (inner !== field.fallback) fields[field.name] = field.type.toJson(inner);
    }
    return fields;
  }
}

/** An array on the wire. */
class Row extends Shape {
  keep(fields, field, value) {
    fields[field.name] = value;
  }

  read(reader) {
    return this.readFields(reader, reader.array(), this.empty());
  }

  readFields(reader, count, fields) {
    if (count < this.required) throw wrong("too few elements");
    let at = 0;
    for (const field of this.fields) {
      fields[field.name] = at++ < count ? field.read(reader) : field.fallback;
    }
    for (; at < count; at++) reader.skip();
    return fields;
  }

  write(writer, value) {
    expectObject(value);
    writer.array(this.fields.length);
    this.writeFields(writer, value);
  }

  writeFields(writer, value) {
    for (const field of this.fields) field.write(writer, value[field.name]);
  }
}

/** A row behind its code. */
class Message extends Row {
  constructor(name, { code, fields }) {
    super(name, fields, false);
    this.code = code;
    this.hasRid = this.fields[0]?.name === "rid";
  }

  empty() {
    return { t: this.name };
  }

  write(writer, value) {
    expectObject(value);
    writer.array(this.fields.length + 1);
    writer.int(this.code);
    this.writeFields(writer, value);
  }
}

/** One of several messages; the code says which. */
class Choice {
  constructor(messages) {
    this.byCode = new Array(MAX_CODE + 1).fill(null);
    this.byName = new Map();
    for (const message of messages) {
      this.byCode[message.code] = message;
      this.byName.set(message.name, message);
    }
  }

  read(reader) {
    const count = reader.array();
    if (count < 1) throw wrong("expected a message");
    const message = this.byCode[reader.int(0, MAX_CODE)];
    if (message === null) throw wrong("unknown message");
    return message.readFields(reader, count - 1, { t: message.name });
  }

  write(writer, value) {
    this.#find(value).write(writer, value);
  }

  fromJson(value) {
    return this.#find(value).fromJson(value);
  }

  toJson(value) {
    return this.#find(value).toJson(value);
  }

  #find(value) {
    const message = this.byName.get(expectObject(value).t);
    if (message === undefined) throw wrong("unknown message");
    return message;
  }
}

/** A map on the wire. */
class Entity extends Shape {
  constructor(name, fields) {
    super(name, fields, true);
    this.byName = new Map(this.fields.map((field) => [field.name, field]));
    this.here = name;
  }

  keep(fields, field, value) {
    if (value !== null) fields[field.name] = value;
  }

  read(reader) {
    const fields = {};
    for (let left = reader.map(); left > 0; left--) {
      place = this.here;
      const field = this.byName.get(reader.name());
      if (field === undefined) reader.skip();
      else this.keep(fields, field, field.read(reader));
    }
    return fields;
  }

  write(writer, value) {
    expectObject(value);
    let count = 0;
    for (const field of this.fields) if ((value[field.name] ?? null) !== null) count++;
    writer.map(count);
    for (const field of this.fields) {
      const inner = value[field.name] ?? null;
      if (inner === null) continue;
      writer.text(field.name);
      field.write(writer, inner);
    }
  }
}

function buildScalar({ int, float, text, bytes }) {
  if (int) return new Int(int);
  if (float) return new Float(float);
  return bytes ? new Bytes(bytes) : new Text(text);
}

/** Return the type that a name in the notation of docs/protocol.md §12 stands for. */
function buildType(name, known) {
  const list = /^\[(.+)\](?:(?:(\d+)\.\.)?(\d+))?$/.exec(name);
  if (list) {
    const [, item, min, max] = list;
    return new List(buildType(item, known), Number(min ?? 0), Number(max ?? Infinity));
  }
  const dict = /^\{(\w+):(\w+)\}(\d+)$/.exec(name);
  if (dict) return new Dict(known.get(dict[1]), known.get(dict[2]), Number(dict[3]));
  if (name.includes("|")) return new Choice(name.split("|").map((one) => known.get(one)));
  return known.get(name);
}

function buildMessages() {
  const known = new Map([["B", BOOL]]);
  for (const [name, scalar] of Object.entries(TYPES)) known.set(name, buildScalar(scalar));
  const shapes = [
    ...Object.entries(ROWS).map(([name, fields]) => new Row(name, fields, false)),
    ...Object.entries(ENTITIES).map(([name, fields]) => new Entity(name, fields)),
    ...Object.entries(MESSAGES).map(([name, entry]) => new Message(name, entry)),
  ];
  for (const shape of shapes) known.set(shape.name, shape);
  for (const { fields } of shapes) {
    for (const field of fields) field.type = buildType(field.typeName, known);
  }
  return (side) =>
    new Choice(
      shapes.filter((shape) => shape instanceof Message && MESSAGES[shape.name].from.includes(side)),
    );
}

const messagesFrom = buildMessages();

/** What a client may send, and what a server may. */
export const CLIENT = messagesFrom("C");
export const SERVER = messagesFrom("S");
