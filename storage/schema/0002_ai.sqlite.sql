-- What the AI bridge keeps: see docs/architecture.md. Times are Unix milliseconds, 0 = not yet.

-- card: the imported character card as JSON, whole, so that an export loses nothing.
CREATE TABLE IF NOT EXISTS persona_card (
  persona INTEGER PRIMARY KEY,
  card TEXT NOT NULL,
  updated INTEGER NOT NULL
);

-- What came before the history that a model is shown: it tells of the messages above floor_seq up
-- to upto_seq.
CREATE TABLE IF NOT EXISTS conv_summary (
  conv INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  floor_seq INTEGER NOT NULL,
  upto_seq INTEGER NOT NULL,
  text TEXT NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (conv, persona)
) WITHOUT ROWID;

-- What a persona remembers of a user. kind: ai_bridge.memory.types. conv, seq: the message it was
-- learnt from, 0 when the user wrote it into the list. emb: float32, little endian, length 1;
-- emb_model tells which model made it, '' = not yet. replaced_by: the newer memory that holds now.
CREATE TABLE IF NOT EXISTS ai_memory (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  user INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  kind TEXT NOT NULL,
  text TEXT NOT NULL,
  emb BLOB NOT NULL,
  emb_model TEXT NOT NULL,
  conv INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  quote TEXT NOT NULL,
  pinned INTEGER NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  last_used INTEGER NOT NULL,
  uses INTEGER NOT NULL,
  replaced_by INTEGER NOT NULL
);

CREATE INDEX IF NOT EXISTS ai_memory_pair ON ai_memory (user, persona, id);

CREATE INDEX IF NOT EXISTS ai_memory_source ON ai_memory (conv, seq);

CREATE INDEX IF NOT EXISTS ai_memory_replaced ON ai_memory (replaced_by);

-- How far a conversation was read for memories: what user wrote in (upto_seq, noted_seq] waits.
-- pending_since: when the oldest of it was written, 0 = nothing waits.
CREATE TABLE IF NOT EXISTS ai_memory_mark (
  user INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  conv INTEGER NOT NULL,
  tenant INTEGER NOT NULL,
  upto_seq INTEGER NOT NULL,
  noted_seq INTEGER NOT NULL,
  pending_since INTEGER NOT NULL,
  PRIMARY KEY (user, persona, conv)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS ai_memory_mark_conv ON ai_memory_mark (conv);

CREATE INDEX IF NOT EXISTS ai_memory_mark_pending ON ai_memory_mark (pending_since);

-- What users decided about their memories. off: nothing is learnt, nothing recalled.
CREATE TABLE IF NOT EXISTS ai_memory_setting (
  user INTEGER PRIMARY KEY,
  off INTEGER NOT NULL,
  updated INTEGER NOT NULL
);

-- Groups with personas. personas: their ids, joined by commas. talk: ai_bridge.group.TalkMode.
CREATE TABLE IF NOT EXISTS room (
  conv INTEGER PRIMARY KEY,
  personas TEXT NOT NULL,
  talk INTEGER NOT NULL
);

-- rev: another number after every change of what a persona remembers of a user; tells caches.
CREATE TABLE IF NOT EXISTS ai_memory_head (
  user INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  PRIMARY KEY (user, persona)
) WITHOUT ROWID;

-- What answers used, summed per UTC day (days since 1970). Written with the final state of each turn.
CREATE TABLE IF NOT EXISTS ai_usage (
  tenant INTEGER NOT NULL,
  day INTEGER NOT NULL,
  user INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  model TEXT NOT NULL,
  turns INTEGER NOT NULL,
  tokens_in INTEGER NOT NULL,
  tokens_out INTEGER NOT NULL,
  cost_micro INTEGER NOT NULL,
  PRIMARY KEY (tenant, day, user, persona, model)
) WITHOUT ROWID;

-- Micro-dollars that may be spent; user 0 is the tenant as a whole, a limit of 0 is none.
CREATE TABLE IF NOT EXISTS budget (
  tenant INTEGER NOT NULL,
  user INTEGER NOT NULL,
  day_micro INTEGER NOT NULL,
  month_micro INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (tenant, user)
) WITHOUT ROWID;

-- AI services added while the server runs. config: JSON without the key; sealed: the key, encrypted.
CREATE TABLE IF NOT EXISTS ai_provider (
  name TEXT PRIMARY KEY,
  config TEXT NOT NULL,
  sealed BLOB NOT NULL,
  updated INTEGER NOT NULL,
  deleted INTEGER NOT NULL
) WITHOUT ROWID;
