-- What the AI bridge keeps: see docs/architecture.md. Times are Unix milliseconds, 0 = not yet.

-- card: the imported character card as JSON, whole, so that an export loses nothing.
CREATE TABLE IF NOT EXISTS persona_card (
  persona BIGINT NOT NULL PRIMARY KEY,
  card LONGTEXT NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What came before the history that a model is shown. It tells of the messages above floor_seq up to
-- upto_seq as they were at revision rev of the conversation.
CREATE TABLE IF NOT EXISTS conv_summary (
  conv BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  floor_seq BIGINT NOT NULL,
  upto_seq BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  text MEDIUMTEXT NOT NULL,
  updated BIGINT NOT NULL,
  PRIMARY KEY (conv, persona)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
