-- What the AI bridge keeps: see docs/architecture.md. Times are Unix milliseconds, 0 = not yet.

-- card: the imported character card as JSON, whole, so that an export loses nothing.
CREATE TABLE IF NOT EXISTS persona_card (
  persona INTEGER PRIMARY KEY,
  card TEXT NOT NULL,
  updated INTEGER NOT NULL
);
