-- Which sign-in (refresh_token.family) a device came with the last time, so that signing the device
-- out ends it; no row when its token named none.
CREATE TABLE IF NOT EXISTS device_family (
  user BIGINT NOT NULL,
  device BINARY(16) NOT NULL,
  family BIGINT NOT NULL,
  PRIMARY KEY (user, device),
  KEY device_family_family (user, family)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
