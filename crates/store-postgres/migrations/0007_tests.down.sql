DROP TABLE artifacts;
DROP TABLE quarantined_tests;
DROP TABLE test_results;
DROP TABLE plans;

-- What was skipped comes nearest to cancelled. What is held goes on waiting, for a moment that never comes.
UPDATE run_counts SET cancelled = cancelled + skipped WHERE skipped <> 0;
ALTER TABLE run_counts DROP COLUMN skipped;
UPDATE run_ends SET status = 'cancelled' WHERE status = 'skipped';
ALTER TABLE run_ends DROP CONSTRAINT run_ends_status_check,
    ADD CONSTRAINT run_ends_status_check CHECK (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost')),
    DROP COLUMN superseded, DROP COLUMN plan_id;
ALTER TABLE run_active DROP COLUMN plan_id;
UPDATE runs SET not_before = NULL WHERE held = 1
    AND seq = ANY (ARRAY(SELECT seq FROM run_delayed WHERE not_before IS NULL));
UPDATE run_delayed SET not_before = 9223372036854775807 WHERE not_before IS NULL;
ALTER TABLE run_delayed ALTER COLUMN not_before SET NOT NULL;
ALTER TABLE runs DROP COLUMN held, DROP COLUMN plan_id;

CREATE TABLE one_class AS
    SELECT c.id, (SELECT min(o.id) FROM run_classes o WHERE o.requirements = c.requirements) AS kept FROM run_classes c;
UPDATE runs r SET class_id = o.kept FROM one_class o WHERE o.id = r.class_id AND o.kept <> o.id;
UPDATE run_ready q SET class_id = o.kept FROM one_class o WHERE o.id = q.class_id AND o.kept <> o.id;
UPDATE run_delayed q SET class_id = o.kept FROM one_class o WHERE o.id = q.class_id AND o.kept <> o.id;
UPDATE run_active q SET class_id = o.kept FROM one_class o WHERE o.id = q.class_id AND o.kept <> o.id;
DELETE FROM run_classes WHERE id IN (SELECT id FROM one_class WHERE kept <> id);
DROP TABLE one_class;
ALTER TABLE run_classes DROP COLUMN tenant_id;
ALTER TABLE run_classes ADD CONSTRAINT run_classes_requirements_key UNIQUE (requirements);
