-- What the AI bridge keeps since its second release. Times are Unix milliseconds, 0 = not yet.

-- rev: another number after every change of a subject; tells servers to read it again.
CREATE TABLE IF NOT EXISTS revision (
  subject TEXT PRIMARY KEY,
  rev INTEGER NOT NULL
) WITHOUT ROWID;
