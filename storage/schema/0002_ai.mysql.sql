-- What the AI bridge keeps: see docs/architecture.md. Times are Unix milliseconds, 0 = not yet.

-- card: the imported character card as JSON, whole, so that an export loses nothing.
CREATE TABLE IF NOT EXISTS persona_card (
  persona BIGINT NOT NULL PRIMARY KEY,
  card LONGTEXT NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What came before the history that a model is shown: it tells of the messages above floor_seq up
-- to upto_seq.
CREATE TABLE IF NOT EXISTS conv_summary (
  conv BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  floor_seq BIGINT NOT NULL,
  upto_seq BIGINT NOT NULL,
  text MEDIUMTEXT NOT NULL,
  updated BIGINT NOT NULL,
  PRIMARY KEY (conv, persona)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What a persona remembers of a user. kind: ai_bridge.memory.types. conv, seq: the message it was
-- learnt from, 0 when the user wrote it into the list. emb: float32, little endian, length 1;
-- emb_model tells which model made it, '' = not yet. replaced_by: the newer memory that holds now.
CREATE TABLE IF NOT EXISTS ai_memory (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  user BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  kind VARCHAR(16) NOT NULL,
  text TEXT NOT NULL,
  emb BLOB NOT NULL,
  emb_model VARCHAR(128) NOT NULL,
  conv BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  quote TEXT NOT NULL,
  pinned TINYINT UNSIGNED NOT NULL,
  created BIGINT NOT NULL,
  updated BIGINT NOT NULL,
  last_used BIGINT NOT NULL,
  uses INT NOT NULL,
  replaced_by BIGINT NOT NULL,
  KEY ai_memory_pair (user, persona, id),
  KEY ai_memory_source (conv, seq),
  KEY ai_memory_replaced (replaced_by)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- How far a conversation was read for memories: what user wrote in (upto_seq, noted_seq] waits.
-- pending_since: when the oldest of it was written, 0 = nothing waits.
CREATE TABLE IF NOT EXISTS ai_memory_mark (
  user BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  conv BIGINT NOT NULL,
  tenant BIGINT NOT NULL,
  upto_seq BIGINT NOT NULL,
  noted_seq BIGINT NOT NULL,
  pending_since BIGINT NOT NULL,
  PRIMARY KEY (user, persona, conv),
  KEY ai_memory_mark_conv (conv),
  KEY ai_memory_mark_pending (pending_since)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What users decided about their memories. off: nothing is learnt, nothing recalled.
CREATE TABLE IF NOT EXISTS ai_memory_setting (
  user BIGINT NOT NULL PRIMARY KEY,
  off TINYINT UNSIGNED NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Groups with personas. personas: their ids, joined by commas. talk: ai_bridge.group.TalkMode.
CREATE TABLE IF NOT EXISTS room (
  conv BIGINT NOT NULL PRIMARY KEY,
  personas VARCHAR(255) NOT NULL,
  talk TINYINT UNSIGNED NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- rev: another number after every change of what a persona remembers of a user; tells caches.
CREATE TABLE IF NOT EXISTS ai_memory_head (
  user BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  PRIMARY KEY (user, persona)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What answers used, summed per UTC day (days since 1970). Written with the final state of each turn.
CREATE TABLE IF NOT EXISTS ai_usage (
  tenant BIGINT NOT NULL,
  day INT NOT NULL,
  user BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  model VARCHAR(64) NOT NULL,
  turns BIGINT NOT NULL,
  tokens_in BIGINT NOT NULL,
  tokens_out BIGINT NOT NULL,
  cost_micro BIGINT NOT NULL,
  PRIMARY KEY (tenant, day, user, persona, model)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Micro-dollars that may be spent; user 0 is the tenant as a whole, a limit of 0 is none.
CREATE TABLE IF NOT EXISTS budget (
  tenant BIGINT NOT NULL,
  user BIGINT NOT NULL,
  day_micro BIGINT NOT NULL,
  month_micro BIGINT NOT NULL,
  updated BIGINT NOT NULL,
  PRIMARY KEY (tenant, user)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- AI services added while the server runs. config: JSON without the key; sealed: the key, encrypted.
CREATE TABLE IF NOT EXISTS ai_provider (
  name VARCHAR(64) NOT NULL PRIMARY KEY,
  config TEXT NOT NULL,
  sealed BLOB NOT NULL,
  updated BIGINT NOT NULL,
  deleted TINYINT UNSIGNED NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
