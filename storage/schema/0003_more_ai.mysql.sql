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

-- Which engine answers whom; tenant or persona 0 stands for all. engine: '' = the one of the wider
-- scope. asked, state, reason: the last change and what became of it, see storage/engines.py.
CREATE TABLE IF NOT EXISTS engine_choice (
  tenant BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  engine VARCHAR(64) NOT NULL,
  asked VARCHAR(64) NOT NULL,
  state TINYINT UNSIGNED NOT NULL,
  reason VARCHAR(500) NOT NULL,
  updated BIGINT NOT NULL,
  PRIMARY KEY (tenant, persona)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Users (kind 1) and conversations (kind 2) that are erased, and since when that is done.
-- conv, seq: of a user's conversations those up to conv are done; in conv the messages up to seq,
-- all of it with seq -1. done, total: for people to look at. started: somebody works on it.
CREATE TABLE IF NOT EXISTS erasure (
  kind TINYINT UNSIGNED NOT NULL,
  target BIGINT NOT NULL,
  conv BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  done BIGINT NOT NULL,
  total BIGINT NOT NULL,
  requested BIGINT NOT NULL,
  started BIGINT NOT NULL,
  finished BIGINT NOT NULL,
  PRIMARY KEY (kind, target),
  KEY erasure_open (finished, requested)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What a mem0 server has to erase; due: not before. user 0: of everybody who asked in conv, still to
-- be looked up. conv 0: all of the user, -1: so far (persona -1: of all personas, to be looked up);
-- seq 0: all of conv. looks: how often it was found done.
CREATE TABLE IF NOT EXISTS mem0_erasure (
  user BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  conv BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  tenant BIGINT NOT NULL,
  requested BIGINT NOT NULL,
  due BIGINT NOT NULL,
  looks INT NOT NULL,
  failures INT NOT NULL,
  PRIMARY KEY (user, persona, conv, seq),
  KEY mem0_erasure_due (due)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What models cost, by command. imported: 1 = from a file of this version, 0 = set one by one.
-- price: JSON, in the form of a file of prices.
CREATE TABLE IF NOT EXISTS ai_price (
  imported TINYINT UNSIGNED NOT NULL,
  model VARCHAR(200) NOT NULL,
  price VARCHAR(500) NOT NULL,
  version VARCHAR(64) NOT NULL,
  updated BIGINT NOT NULL,
  PRIMARY KEY (imported, model)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
