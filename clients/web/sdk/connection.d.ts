import type { ClientMessage, ServerMessage } from "./messages.js";

export declare const MAX_FRAME_BYTES: 1048576;
export declare const DEFAULT_PORT: 8420;

/** A parsed server address. */
export interface Address {
  transport: "tcp" | "ws";
  host: string;
  port: number;
  tls: boolean;
  /** Of the WebSocket endpoint, with its query. */
  path: string;
  /** Where the HTTP doors are. */
  http: string;
}

/** Return what an address means; throws `AddressError`. */
export declare function parseAddress(text: string): Address;

/** Who is told what a connection brings. */
export interface Receiver {
  framesReceived(frames: ServerMessage[]): void;
  /** A message could not be understood and was left out. */
  frameRefused(): void;
  /** Called once at the end, in plain words, unless `close` was called before. */
  connectionLost(reason: string): void;
}

/** An open connection; `send` never blocks. */
export declare class Connection {
  constructor(receiver: Receiver);
  /** Messages of unknown types that were left out. */
  readonly ignored: number;
  /** Throws `ProtocolError` when its fields are not what the protocol allows. */
  send(frame: ClientMessage): void;
  /** Write what is queued, then close; the receiver hears no more. */
  close(): void;
  /** Drop the connection now. */
  abort(reason: string): void;
}

export interface ConnectOptions {
  /** Milliseconds. */
  timeout: number;
  /** The class to use; by default the global one. */
  WebSocket?: unknown;
  /** For `tls.connect` of Node, with parlances:// addresses. */
  tls?: object;
}

/** Connect; throws `Unreachable`, or `AddressError` where this place cannot connect so at all. */
export declare function openConnection(
  address: Address,
  receiver: Receiver,
  options: ConnectOptions,
): Promise<Connection>;
