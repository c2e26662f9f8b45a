-- What the AI bridge keeps: see docs/architecture.md. Times are Unix milliseconds, 0 = not yet.

-- card: the imported character card as JSON, whole, so that an export loses nothing.
CREATE TABLE IF NOT EXISTS persona_card (
  persona INTEGER PRIMARY KEY,
  card TEXT NOT NULL,
  updated INTEGER NOT NULL
);

-- What came before the history that a model is shown. It tells of the messages above floor_seq up to
-- upto_seq as they were at revision rev of the conversation.
CREATE TABLE IF NOT EXISTS conv_summary (
  conv INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  floor_seq INTEGER NOT NULL,
  upto_seq INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  text TEXT NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (conv, persona)
) WITHOUT ROWID;
