-- What the AI bridge keeps since its second release. Times are Unix milliseconds, 0 = not yet.

-- rev: another number after every change of a subject; tells servers to read it again.
CREATE TABLE IF NOT EXISTS revision (
  subject VARCHAR(64) NOT NULL PRIMARY KEY,
  rev BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
