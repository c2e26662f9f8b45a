-- What the AI bridge keeps since its second release. Times are Unix milliseconds, 0 = not yet.

-- rev: another number after every change of a subject; tells servers to read it again.
CREATE TABLE IF NOT EXISTS revision (
  subject VARCHAR(64) NOT NULL PRIMARY KEY,
  rev BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What MCP servers offer. pins: JSON, the digest of each approved tool, '' = no list was seen yet.
-- seen: the last list, as JSON of the server program. problem: why it cannot be used, '' = it can.
CREATE TABLE IF NOT EXISTS mcp_server (
  name VARCHAR(64) NOT NULL PRIMARY KEY,
  pins MEDIUMTEXT NOT NULL,
  seen MEDIUMTEXT NOT NULL,
  problem VARCHAR(64) NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
