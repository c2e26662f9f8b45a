import type { Address, ConnectOptions, Connection, Receiver } from "./connection.js";

/** Connect over TCP or TLS (Node only); throws `Unreachable`. */
export declare function openTcp(
  address: Address,
  receiver: Receiver,
  options: ConnectOptions,
): Promise<Connection>;
