ALTER TABLE sandboxes ADD COLUMN secrets_at BIGINT;
-- What those that are held were given until now was not noted.
UPDATE sandboxes SET secrets_at = claimed_at WHERE status <> 'destroyed';
