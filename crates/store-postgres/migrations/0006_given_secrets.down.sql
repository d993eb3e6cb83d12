ALTER TABLE sandboxes DROP COLUMN secrets_at;
