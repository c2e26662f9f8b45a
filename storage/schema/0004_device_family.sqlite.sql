-- Which sign-in (refresh_token.family) a device came with the last time, so that signing the device
-- out ends it; no row when its token named none.
CREATE TABLE IF NOT EXISTS device_family (
  user INTEGER NOT NULL,
  device BLOB NOT NULL,
  family INTEGER NOT NULL,
  PRIMARY KEY (user, device)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS device_family_family ON device_family (user, family);
