-- When a body was stored last, by the server's clock: what nothing names any more goes when it is old enough.
ALTER TABLE bodies ADD COLUMN stored_at_us bigint NOT NULL DEFAULT 0;
