-- Times are Unix milliseconds, 0 = not yet. Flags are 0 or 1. Ids come from storage/ids.py.

CREATE TABLE IF NOT EXISTS tenant (
  id INTEGER PRIMARY KEY,
  slug TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  created INTEGER NOT NULL
);

INSERT OR IGNORE INTO tenant (id, slug, name, created) VALUES (1, 'default', 'default', 0);

CREATE TABLE IF NOT EXISTS setting (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- Heads of conversations and of users' own feeds: what a batch locks. Narrow on purpose.
CREATE TABLE IF NOT EXISTS feed (
  id INTEGER PRIMARY KEY,
  rev INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  updated INTEGER NOT NULL
);

-- name_key: what must be unique (protocol.text.name_key). rev: the user's feed at the last change.
CREATE TABLE IF NOT EXISTS user (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  name TEXT NOT NULL,
  name_key TEXT NOT NULL,
  nick TEXT NOT NULL,
  nick_key TEXT NOT NULL,
  avatar INTEGER NOT NULL,
  bio TEXT NOT NULL,
  kind INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  created INTEGER NOT NULL,
  disabled INTEGER NOT NULL,
  token_epoch INTEGER NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS user_name ON user (tenant, name_key);

CREATE INDEX IF NOT EXISTS user_nick ON user (tenant, nick_key);

CREATE TABLE IF NOT EXISTS credential (
  user INTEGER PRIMARY KEY,
  password_hash TEXT NOT NULL,
  updated INTEGER NOT NULL
);

-- A family is one sign-in: the tokens that replaced each other.
CREATE TABLE IF NOT EXISTS refresh_token (
  hash BLOB PRIMARY KEY,
  user INTEGER NOT NULL,
  device BLOB NOT NULL,
  family INTEGER NOT NULL,
  created INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  used_at INTEGER NOT NULL,
  replaced_by BLOB
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS refresh_token_user ON refresh_token (user, device);

CREATE INDEX IF NOT EXISTS refresh_token_family ON refresh_token (family);

CREATE INDEX IF NOT EXISTS refresh_token_expires ON refresh_token (expires);

CREATE TABLE IF NOT EXISTS api_key (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL,
  scopes TEXT NOT NULL,
  created INTEGER NOT NULL,
  revoked INTEGER NOT NULL,
  last_used INTEGER NOT NULL
);

CREATE INDEX IF NOT EXISTS api_key_tenant ON api_key (tenant, id);

CREATE TABLE IF NOT EXISTS device (
  user INTEGER NOT NULL,
  device BLOB NOT NULL,
  name TEXT NOT NULL,
  platform TEXT NOT NULL,
  created INTEGER NOT NULL,
  seen INTEGER NOT NULL,
  revoked_at INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  PRIMARY KEY (user, device)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS device_rev ON device (user, rev);

CREATE TABLE IF NOT EXISTS avatar (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  owner INTEGER NOT NULL,
  mime TEXT NOT NULL,
  data BLOB NOT NULL,
  created INTEGER NOT NULL
);

-- direct_key: "tenant:lower:higher user" while a direct conversation is not deleted.
-- rev: the feed's revision at the last change of this row.
CREATE TABLE IF NOT EXISTS conversation (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  title TEXT NOT NULL,
  avatar INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  owner INTEGER NOT NULL,
  creator INTEGER NOT NULL,
  cid BLOB NOT NULL,
  direct_key TEXT UNIQUE,
  notice TEXT NOT NULL,
  prompt TEXT NOT NULL,
  opt TEXT,
  flags INTEGER NOT NULL,
  first_seq INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  deleted INTEGER NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS conversation_cid ON conversation (tenant, creator, cid);

-- rev: the conversation's feed at the last change of what members see of each other;
-- my_rev: the user's own feed at the last change of what only the member sees.
CREATE TABLE IF NOT EXISTS member (
  conv INTEGER NOT NULL,
  user INTEGER NOT NULL,
  role INTEGER NOT NULL,
  nick TEXT NOT NULL,
  joined INTEGER NOT NULL,
  joined_seq INTEGER NOT NULL,
  min_seq INTEGER NOT NULL,
  mute_until INTEGER NOT NULL,
  my_mute_until INTEGER NOT NULL,
  read_seq INTEGER NOT NULL,
  recv_seq INTEGER NOT NULL,
  pinned INTEGER NOT NULL,
  archived INTEGER NOT NULL,
  hidden INTEGER NOT NULL,
  remark TEXT NOT NULL,
  draft TEXT NOT NULL,
  rev INTEGER NOT NULL,
  my_rev INTEGER NOT NULL,
  PRIMARY KEY (conv, user)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS member_rev ON member (conv, rev);

CREATE INDEX IF NOT EXISTS member_my_rev ON member (user, my_rev);

-- ext: JSON of the sparse part, without cid. With a rowid, so that a batch appends its rows to the
-- same few pages: each page that a batch touches is written to the log (docs/decisions/0003).
CREATE TABLE IF NOT EXISTS message (
  conv INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  ts INTEGER NOT NULL,
  sender INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  text TEXT NOT NULL,
  ext TEXT,
  cid BLOB NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS message_seq ON message (conv, seq);

-- cid first: clients make it from the time (UUIDv7), so new entries share the last pages.
CREATE UNIQUE INDEX IF NOT EXISTS message_cid ON message (cid, conv, sender);

-- Messages that changed after they were sent; the others are found by their number.
CREATE TABLE IF NOT EXISTS message_change (
  conv INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  PRIMARY KEY (conv, seq)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS message_change_rev ON message_change (conv, rev);

-- owner 0: built in. rev: the owner's feed at the last change.
CREATE TABLE IF NOT EXISTS persona (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  owner INTEGER NOT NULL,
  cid BLOB NOT NULL,
  slug TEXT UNIQUE,
  name TEXT NOT NULL,
  name_key TEXT NOT NULL,
  prompt TEXT NOT NULL,
  greeting TEXT NOT NULL,
  avatar INTEGER NOT NULL,
  tags TEXT NOT NULL,
  opt TEXT,
  scope INTEGER NOT NULL,
  rev INTEGER NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  deleted INTEGER NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS persona_cid ON persona (owner, cid);

CREATE INDEX IF NOT EXISTS persona_rev ON persona (owner, rev);

CREATE INDEX IF NOT EXISTS persona_scope ON persona (tenant, scope, id);

CREATE INDEX IF NOT EXISTS persona_name ON persona (tenant, name_key);

CREATE TABLE IF NOT EXISTS ai_turn (
  id INTEGER PRIMARY KEY,
  tenant INTEGER NOT NULL,
  conv INTEGER NOT NULL,
  ask_seq INTEGER NOT NULL,
  user INTEGER NOT NULL,
  persona INTEGER NOT NULL,
  cid BLOB NOT NULL,
  mode INTEGER NOT NULL,
  status INTEGER NOT NULL,
  reason INTEGER NOT NULL,
  lease_until INTEGER NOT NULL,
  node TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  tokens_in INTEGER NOT NULL,
  tokens_out INTEGER NOT NULL,
  cost_micro INTEGER NOT NULL,
  usage_source TEXT NOT NULL,
  ttft_ms INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  error_code TEXT NOT NULL,
  error_message TEXT NOT NULL,
  partial TEXT NOT NULL,
  answer_seq INTEGER NOT NULL,
  created INTEGER NOT NULL,
  started INTEGER NOT NULL,
  finished INTEGER NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS ai_turn_cid ON ai_turn (conv, user, cid);

CREATE INDEX IF NOT EXISTS ai_turn_conv ON ai_turn (conv, id);

CREATE INDEX IF NOT EXISTS ai_turn_lease ON ai_turn (status, lease_until);

CREATE TABLE IF NOT EXISTS dead_letter (
  id INTEGER PRIMARY KEY,
  created INTEGER NOT NULL,
  kind TEXT NOT NULL,
  reason TEXT NOT NULL,
  payload TEXT NOT NULL,
  replayed_at INTEGER NOT NULL
);
