-- What the AI bridge keeps since its second release. Times are Unix milliseconds, 0 = not yet.

-- rev: another number after every change of a subject; tells servers to read it again.
CREATE TABLE IF NOT EXISTS revision (
  subject TEXT PRIMARY KEY,
  rev INTEGER NOT NULL
) WITHOUT ROWID;

-- What MCP servers offer. pins: JSON, the digest of each approved tool, '' = no list was seen yet.
-- seen: the last list, as JSON of the server program. problem: why it cannot be used, '' = it can.
CREATE TABLE IF NOT EXISTS mcp_server (
  name TEXT PRIMARY KEY,
  pins TEXT NOT NULL,
  seen TEXT NOT NULL,
  problem TEXT NOT NULL,
  updated INTEGER NOT NULL
) WITHOUT ROWID;
