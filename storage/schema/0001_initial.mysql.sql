-- Times are Unix milliseconds, 0 = not yet. Flags are 0 or 1. Ids come from storage/ids.py.
-- Collation utf8mb4_bin throughout: what compares without case does so by its *_key column, alike
-- on every engine.

CREATE TABLE IF NOT EXISTS tenant (
  id BIGINT NOT NULL PRIMARY KEY,
  slug VARCHAR(64) NOT NULL UNIQUE,
  name VARCHAR(128) NOT NULL,
  created BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

INSERT IGNORE INTO tenant (id, slug, name, created) VALUES (1, 'default', 'default', 0);

CREATE TABLE IF NOT EXISTS setting (
  name VARCHAR(128) NOT NULL PRIMARY KEY,
  value VARCHAR(512) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Heads of conversations and of users' own feeds: what a batch locks. Narrow on purpose.
CREATE TABLE IF NOT EXISTS feed (
  id BIGINT NOT NULL PRIMARY KEY,
  rev BIGINT NOT NULL,
  last_seq BIGINT NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- name_key: what must be unique (protocol.text.name_key). rev: the user's feed at the last change.
CREATE TABLE IF NOT EXISTS user (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  name VARCHAR(128) NOT NULL,
  name_key VARCHAR(255) NOT NULL,
  nick VARCHAR(64) NOT NULL,
  nick_key VARCHAR(255) NOT NULL,
  avatar BIGINT NOT NULL,
  bio VARCHAR(256) NOT NULL,
  kind TINYINT UNSIGNED NOT NULL,
  persona BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  created BIGINT NOT NULL,
  disabled TINYINT UNSIGNED NOT NULL,
  token_epoch INT NOT NULL,
  UNIQUE KEY user_name (tenant, name_key),
  KEY user_nick (tenant, nick_key)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS credential (
  user BIGINT NOT NULL PRIMARY KEY,
  password_hash VARCHAR(512) NOT NULL,
  updated BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- A family is one sign-in: the tokens that replaced each other.
CREATE TABLE IF NOT EXISTS refresh_token (
  hash BINARY(32) NOT NULL PRIMARY KEY,
  user BIGINT NOT NULL,
  device BINARY(16) NOT NULL,
  family BIGINT NOT NULL,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  used_at BIGINT NOT NULL,
  replaced_by BINARY(32) NULL,
  KEY refresh_token_user (user, device),
  KEY refresh_token_family (family),
  KEY refresh_token_expires (expires)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS api_key (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  hash BINARY(32) NOT NULL UNIQUE,
  name VARCHAR(128) NOT NULL,
  scopes VARCHAR(512) NOT NULL,
  created BIGINT NOT NULL,
  revoked BIGINT NOT NULL,
  last_used BIGINT NOT NULL,
  KEY api_key_tenant (tenant, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS device (
  user BIGINT NOT NULL,
  device BINARY(16) NOT NULL,
  name VARCHAR(128) NOT NULL,
  platform VARCHAR(16) NOT NULL,
  created BIGINT NOT NULL,
  seen BIGINT NOT NULL,
  revoked_at BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  PRIMARY KEY (user, device),
  KEY device_rev (user, rev)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS avatar (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  owner BIGINT NOT NULL,
  mime VARCHAR(128) NOT NULL,
  data MEDIUMBLOB NOT NULL,
  created BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- direct_key: "tenant:lower:higher user" while a direct conversation is not deleted.
-- rev: the feed's revision at the last change of this row.
CREATE TABLE IF NOT EXISTS conversation (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  kind TINYINT UNSIGNED NOT NULL,
  title VARCHAR(128) NOT NULL,
  avatar BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  owner BIGINT NOT NULL,
  creator BIGINT NOT NULL,
  cid BINARY(16) NOT NULL,
  direct_key VARCHAR(64) NULL UNIQUE,
  notice TEXT NOT NULL,
  prompt MEDIUMTEXT NOT NULL,
  opt TEXT NULL,
  flags INT NOT NULL,
  first_seq BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  created BIGINT NOT NULL,
  updated BIGINT NOT NULL,
  deleted BIGINT NOT NULL,
  UNIQUE KEY conversation_cid (tenant, creator, cid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- rev: the conversation's feed at the last change of what members see of each other;
-- my_rev: the user's own feed at the last change of what only the member sees.
CREATE TABLE IF NOT EXISTS member (
  conv BIGINT NOT NULL,
  user BIGINT NOT NULL,
  role TINYINT UNSIGNED NOT NULL,
  nick VARCHAR(64) NOT NULL,
  joined BIGINT NOT NULL,
  joined_seq BIGINT NOT NULL,
  min_seq BIGINT NOT NULL,
  mute_until BIGINT NOT NULL,
  my_mute_until BIGINT NOT NULL,
  read_seq BIGINT NOT NULL,
  recv_seq BIGINT NOT NULL,
  pinned TINYINT UNSIGNED NOT NULL,
  archived TINYINT UNSIGNED NOT NULL,
  hidden TINYINT UNSIGNED NOT NULL,
  remark VARCHAR(64) NOT NULL,
  draft TEXT NOT NULL,
  rev BIGINT NOT NULL,
  my_rev BIGINT NOT NULL,
  PRIMARY KEY (conv, user),
  KEY member_rev (conv, rev),
  KEY member_my_rev (user, my_rev)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- ext: JSON of the sparse part, without cid. One index only, by measurement
-- (docs/decisions/0003): each page that a batch touches is written to the log.
CREATE TABLE IF NOT EXISTS message (
  conv BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  ts BIGINT NOT NULL,
  sender BIGINT NOT NULL,
  kind TINYINT UNSIGNED NOT NULL,
  text MEDIUMTEXT NOT NULL,
  ext MEDIUMTEXT NULL,
  cid BINARY(16) NOT NULL,
  PRIMARY KEY (conv, seq),
  UNIQUE KEY message_cid (cid, conv, sender)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- cid first: clients make it from the time (UUIDv7), so new entries share the last pages.
-- Messages that changed after they were sent; the others are found by their number.
CREATE TABLE IF NOT EXISTS message_change (
  conv BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  rev BIGINT NOT NULL,
  PRIMARY KEY (conv, seq),
  KEY message_change_rev (conv, rev)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- owner 0: built in. rev: the owner's feed at the last change.
CREATE TABLE IF NOT EXISTS persona (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  owner BIGINT NOT NULL,
  cid BINARY(16) NOT NULL,
  slug VARCHAR(64) NULL UNIQUE,
  name VARCHAR(128) NOT NULL,
  name_key VARCHAR(255) NOT NULL,
  prompt MEDIUMTEXT NOT NULL,
  greeting TEXT NOT NULL,
  avatar BIGINT NOT NULL,
  tags TEXT NOT NULL,
  opt TEXT NULL,
  scope TINYINT UNSIGNED NOT NULL,
  rev BIGINT NOT NULL,
  created BIGINT NOT NULL,
  updated BIGINT NOT NULL,
  deleted BIGINT NOT NULL,
  UNIQUE KEY persona_cid (owner, cid),
  KEY persona_rev (owner, rev),
  KEY persona_scope (tenant, scope, id),
  KEY persona_name (tenant, name_key)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS ai_turn (
  id BIGINT NOT NULL PRIMARY KEY,
  tenant BIGINT NOT NULL,
  conv BIGINT NOT NULL,
  ask_seq BIGINT NOT NULL,
  user BIGINT NOT NULL,
  persona BIGINT NOT NULL,
  cid BINARY(16) NOT NULL,
  mode TINYINT UNSIGNED NOT NULL,
  status TINYINT UNSIGNED NOT NULL,
  reason TINYINT UNSIGNED NOT NULL,
  lease_until BIGINT NOT NULL,
  node VARCHAR(64) NOT NULL,
  attempts INT NOT NULL,
  provider VARCHAR(64) NOT NULL,
  model VARCHAR(64) NOT NULL,
  tokens_in INT NOT NULL,
  tokens_out INT NOT NULL,
  cost_micro BIGINT NOT NULL,
  usage_source VARCHAR(32) NOT NULL,
  ttft_ms INT NOT NULL,
  duration_ms INT NOT NULL,
  error_code VARCHAR(64) NOT NULL,
  error_message VARCHAR(500) NOT NULL,
  partial MEDIUMTEXT NOT NULL,
  answer_seq BIGINT NOT NULL,
  created BIGINT NOT NULL,
  started BIGINT NOT NULL,
  finished BIGINT NOT NULL,
  UNIQUE KEY ai_turn_cid (conv, user, cid),
  KEY ai_turn_conv (conv, id),
  KEY ai_turn_lease (status, lease_until)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dead_letter (
  id BIGINT NOT NULL PRIMARY KEY,
  created BIGINT NOT NULL,
  kind VARCHAR(128) NOT NULL,
  reason VARCHAR(500) NOT NULL,
  payload LONGTEXT NOT NULL,
  replayed_at BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
