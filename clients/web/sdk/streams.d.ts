import type { Event, Events } from "./events.js";
import type {
  Msg,
  MsgPushMessage,
  OpenedMessage,
  StreamDeltaMessage,
  StreamEndMessage,
  StreamPos,
  StreamQueuedMessage,
  StreamStartMessage,
  ToolAskMessage,
  ToolSettledMessage,
} from "./messages.js";

export declare const STREAMS_MAX: 64;
export declare const QUESTIONS_MAX: 64;

/** CRC-32 (IEEE 802.3) of bytes. */
export declare function crc32(bytes: Uint8Array): number;

/** Text is missing: ask for `open(sid, part, off)`. */
export interface OpenWanted {
  sid: number;
  part: number;
  off: number;
}

/** One running answer as far as it has arrived. */
export declare class Stream {
  constructor(sid: number, conv: number, persona: number, ask: number, state: number);
  readonly sid: number;
  readonly conv: number;
  readonly persona: number;
  /** Seq of the question; 0 when its start was missed. */
  readonly ask: number;
  /** `StreamState`. */
  readonly state: number;
  /** Its place in the queue, 0 when unknown or when it does not wait. */
  readonly place: number;
  text(part?: number): string;
  /** In bytes of UTF-8. */
  size(part?: number): number;
  add(part: number, off: number, text: string): string | null;
  wantOpen(part: number): OpenWanted | null;
  openAnswered(part: number): void;
}

/** The running answers of one user, over all connections. */
export declare class Streams {
  readonly running: ReadonlyMap<number, Stream>;
  wanted: OpenWanted[];
  /** Streams given up because there were too many. */
  readonly dropped: number;
  /** The running streams of a conversation, first begun first. */
  of(conv: number): Stream[];
  positions(): StreamPos[];
  resume(positions: StreamPos[]): Event[];
  join(positions: StreamPos[]): Event[];
  reconnected(): void;
  start(frame: Omit<StreamStartMessage, "t" | "ts">): Event[];
  queued(frame: StreamQueuedMessage): Event[];
  delta(frame: StreamDeltaMessage): Event[];
  opened(frame: OpenedMessage): Event[];
  openFailed(wanted: OpenWanted): void;
  end(frame: StreamEndMessage): { events: Event[]; push: MsgPushMessage | null; missing: boolean };
  stored(conv: number, msg: Msg): Event[];
}

/** Questions whether a tool may run that the user has not answered yet. */
export declare class Questions {
  /** What is being asked, oldest first. */
  get open(): Events["toolAsked"][];
  asked(frame: ToolAskMessage): Event[];
  settled(frame: ToolSettledMessage): Event[];
  streamEnded(sid: number): Event[];
  reconnected(): Event[];
}
