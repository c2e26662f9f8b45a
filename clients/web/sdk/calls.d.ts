import type {
  ChangedMessage,
  Conv,
  ConvInfoMessage,
  ConvPageMessage,
  ConvSet,
  Device,
  DoneMessage,
  GenOkMessage,
  GenOpt,
  Member,
  MemberPageMessage,
  Messages,
  MySet,
  OpenedMessage,
  PageMessage,
  Persona,
  PersonaInfoMessage,
  PersonaPageMessage,
  Replies,
  SendX,
  ServerMessage,
  UsageInfoMessage,
  User,
} from "./messages.js";

/** The fields that a request is given; its id is added. */
export type RequestFields<N extends keyof Replies> = Omit<Messages[N], "t" | "rid">;

/** Requests that wait for their replies on one connection. */
export declare class Pending {
  get size(): number;
  expect(settle: (outcome: ServerMessage | Error) => void): number;
  forget(rid: number): void;
  answered(frame: ServerMessage): void;
  connectionLost(): void;
}

export interface GenerateOptions {
  persona?: number | null | undefined;
  opt?: GenOpt | null;
  cid?: Uint8Array;
}

/** One method per request; all of them throw what `Client.request` throws. */
export declare class Calls {
  request<N extends keyof Replies>(
    name: N,
    fields: RequestFields<N>,
    timeout?: number,
  ): Promise<Replies[N]>;

  edit(
    conv: number,
    seq: number,
    text: string,
    options?: { base?: number; x?: SendX | null },
  ): Promise<ChangedMessage>;
  recall(conv: number, seq: number): Promise<ChangedMessage>;
  history(
    conv: number,
    anchor?: number,
    options?: { back?: boolean; limit?: number },
  ): Promise<PageMessage>;
  getMessages(conv: number, seqs: Iterable<number>): Promise<PageMessage>;

  /** `kind`: `ConvKind`. */
  createConversation(
    kind: number,
    options?: {
      title?: string;
      members?: Iterable<number>;
      persona?: number | null | undefined;
      set?: ConvSet | null;
      cid?: Uint8Array;
    },
  ): Promise<ConvInfoMessage>;
  getConversation(conv: number): Promise<ConvInfoMessage>;
  conversationPage(
    cursor?: string,
    options?: { archived?: boolean; limit?: number },
  ): Promise<ConvPageMessage>;
  conversations(options?: { archived?: boolean }): AsyncGenerator<Conv>;
  changeConversation(conv: number, set: ConvSet): Promise<ChangedMessage>;
  changeMyView(conv: number, set: MySet): Promise<ChangedMessage>;
  dropConversation(conv: number): Promise<ChangedMessage>;
  restoreConversation(conv: number): Promise<ChangedMessage>;
  memberPage(conv: number, cursor?: string, limit?: number): Promise<MemberPageMessage>;
  members(conv: number): AsyncGenerator<Member>;
  addMembers(conv: number, users: Iterable<number>): Promise<ChangedMessage>;
  dropMember(conv: number, user: number): Promise<ChangedMessage>;
  setMember(conv: number, user: number, role: number, muteMs?: number): Promise<ChangedMessage>;

  savePersona(persona: Persona, cid?: Uint8Array): Promise<PersonaInfoMessage>;
  getPersona(persona: number): Promise<PersonaInfoMessage>;
  personaPage(scope: number, cursor?: string, limit?: number): Promise<PersonaPageMessage>;
  personas(scope: number): AsyncGenerator<Persona>;
  dropPersona(persona: number): Promise<ChangedMessage>;

  /** Ask for an answer to message `seq` apart from `send`; 0 is the last. */
  reply(conv: number, seq?: number, options?: GenerateOptions): Promise<GenOkMessage>;
  /** Ask for another answer beside message `seq`. */
  regenerate(conv: number, seq?: number, options?: GenerateOptions): Promise<GenOkMessage>;
  /** Ask for more of the answer in message `seq`. */
  continueAnswer(conv: number, seq?: number, options?: GenerateOptions): Promise<GenOkMessage>;
  cancel(sid: number): Promise<DoneMessage>;
  pick(conv: number, seq: number): Promise<ChangedMessage>;
  openStream(sid: number, part?: number, off?: number): Promise<OpenedMessage>;
  confirm(sid: number, call: number, yes: boolean): Promise<DoneMessage>;
  usage(): Promise<UsageInfoMessage>;

  getUsers(users: Iterable<number>): Promise<User[]>;
  findUsers(query: string, limit?: number): Promise<User[]>;
  setProfile(set: User): Promise<ChangedMessage>;
  listDevices(): Promise<Device[]>;
  dropDevice(device: Uint8Array): Promise<ChangedMessage>;
}
