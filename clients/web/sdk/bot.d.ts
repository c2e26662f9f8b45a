import type { Client, ClientOptions } from "./client.js";
import type { Msg } from "./messages.js";

export declare const BOT_MARK: "bot";
export declare const KEPT_MAX: 200;

/** What a person wrote. */
export declare class Message {
  constructor(bot: Bot, conv: number, row: Msg);
  readonly conv: number;
  /** Id of the person. */
  readonly sender: number;
  readonly text: string;
  readonly row: Msg;
  /** Write into the conversation; false when the server refused it for good. */
  reply(text: string): Promise<boolean>;
}

export interface BotOptions extends Omit<ClientOptions, "state"> {
  /** With it, the name is that of an account that exists; without it, of a guest. */
  password?: string;
  /** For what the bot keeps; `parlance/bots` in the user's state folder by default. */
  folder?: string;
}

/** What is said to a message, if anything. */
export type Answer = (
  message: Message,
) => string | null | undefined | Promise<string | null | undefined>;

/** An account for Node that answers what people write to it. */
export declare class Bot {
  constructor(url: string, name: string, options?: BotOptions);
  readonly name: string;
  readonly client: Client;
  /** Reply with what `answer` returns, until Ctrl-C; says on stdout how it goes. */
  run(answer: Answer): Promise<void>;
  /** What people write, from what came while the bot was away; throws `StateInUse`, `Stopped`. */
  messages(): AsyncGenerator<Message, void, void>;
  close(): Promise<void>;
}
