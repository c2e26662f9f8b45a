-- What the AI bridge keeps: see docs/architecture.md. Times are Unix milliseconds, 0 = not yet.

-- card: the imported character card as JSON, whole, so that an export loses nothing.
CREATE TABLE IF NOT EXISTS persona_card (
  persona BIGINT NOT NULL PRIMARY KEY,
  card LONGTEXT NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
