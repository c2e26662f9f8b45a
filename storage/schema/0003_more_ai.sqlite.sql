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

-- Which engine answers whom; tenant or persona 0 stands for all. engine: '' = the one of the wider
-- scope. asked, state, reason: the last change and what became of it, see storage/engines.py.
CREATE TABLE IF NOT EXISTS engine_choice (
  tenant INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  engine TEXT NOT NULL,
  asked TEXT NOT NULL,
  state INTEGER NOT NULL,
  reason TEXT NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (tenant, persona)
) WITHOUT ROWID;

-- Users (kind 1) and conversations (kind 2) that are erased, and since when that is done.
-- conv, seq: of a user's conversations those up to conv are done; in conv the messages up to seq,
-- all of it with seq -1. done, total: for people to look at. started: somebody works on it.
CREATE TABLE IF NOT EXISTS erasure (
  kind INTEGER NOT NULL,
  target INTEGER NOT NULL,
  conv INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  done INTEGER NOT NULL,
  total INTEGER NOT NULL,
  requested INTEGER NOT NULL,
  started INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  PRIMARY KEY (kind, target)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS erasure_open ON erasure (finished, requested);

-- What a mem0 server has to erase; due: not before. user 0: of everybody who asked in conv, still to
-- be looked up. conv 0: all of the user, -1: so far (persona -1: of all personas, to be looked up);
-- seq 0: all of conv. looks: how often it was found done.
CREATE TABLE IF NOT EXISTS mem0_erasure (
  user INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  conv INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  tenant INTEGER NOT NULL,
  requested INTEGER NOT NULL,
  due INTEGER NOT NULL,
  looks INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  PRIMARY KEY (user, persona, conv, seq)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS mem0_erasure_due ON mem0_erasure (due);

-- What models cost, by command. imported: 1 = from a file of this version, 0 = set one by one.
-- price: JSON, in the form of a file of prices.
CREATE TABLE IF NOT EXISTS ai_price (
  imported INTEGER NOT NULL,
  model TEXT NOT NULL,
  price TEXT NOT NULL,
  version TEXT NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (imported, model)
) WITHOUT ROWID;
