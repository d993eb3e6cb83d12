DROP TABLE audit_log;
DROP TABLE credential_checks;
DROP TABLE credentials;
DROP INDEX api_tokens_user;
-- Without its user a token would have more power than with it.
DELETE FROM api_tokens WHERE user_id IS NOT NULL;
ALTER TABLE api_tokens DROP COLUMN user_id;
DROP TABLE role_assignments;
DROP TABLE roles;
DROP TABLE users;
DROP TABLE departments;
ALTER TABLE tenants DROP COLUMN version;
