-- Requests of a tenant are carried out by a role that does not own the tables (see src/rls.rs, which makes it and says
-- what it may do at all). So every table must say which rows such a role sees: those of `ostler.tenant`, none by default.

-- What belongs to a run is seen when the run is, by the policy of `runs`; so the queue's narrow tables need no column for it,
-- and the owner, who alone moves runs, pays nothing.
ALTER TABLE run_ready ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_delayed ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_ends ENABLE ROW LEVEL SECURITY;
-- Volatile, so that it sees the run that the same statement has just inserted.
CREATE FUNCTION is_visible_run(BIGINT) RETURNS BOOLEAN LANGUAGE sql VOLATILE AS
    'SELECT EXISTS (SELECT 1 FROM runs WHERE seq = $1)';
-- Not EXISTS, for which the planner would at times read all runs of the tenant into a hash table.
CREATE POLICY tenant ON run_ready
    USING ((SELECT r.tenant_id FROM runs r WHERE r.seq = run_ready.seq) = current_setting('ostler.tenant', true))
    WITH CHECK (is_visible_run(seq));
CREATE POLICY tenant ON run_delayed
    USING ((SELECT r.tenant_id FROM runs r WHERE r.seq = run_delayed.seq) = current_setting('ostler.tenant', true))
    WITH CHECK (is_visible_run(seq));
CREATE POLICY tenant ON run_ends
    USING ((SELECT r.tenant_id FROM runs r WHERE r.seq = run_ends.seq) = current_setting('ostler.tenant', true))
    WITH CHECK (is_visible_run(seq));

-- Every tenant may choose a pool, and change none.
ALTER TABLE pools ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON pools FOR SELECT USING (true);
-- Of the platform: no tenant sees them.
ALTER TABLE hosts ENABLE ROW LEVEL SECURITY;
ALTER TABLE servers ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_classes ENABLE ROW LEVEL SECURITY;

-- Who may see the roles that Ostler brings along could remove them, too, or make them its own.
DROP POLICY tenant ON roles;
CREATE POLICY tenant ON roles USING (tenant_id = current_setting('ostler.tenant', true));
CREATE POLICY built_in ON roles FOR SELECT USING (tenant_id IS NULL);

-- Read and added to, never changed.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['events', 'audit_log'] LOOP
        EXECUTE format('DROP POLICY tenant ON %I', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I FOR SELECT USING (tenant_id = current_setting(''ostler.tenant'', true))', name);
        EXECUTE format(
            'CREATE POLICY added ON %I FOR INSERT WITH CHECK (tenant_id = current_setting(''ostler.tenant'', true))',
            name);
    END LOOP;
END $$;
DROP POLICY tenant ON tenants;
CREATE POLICY tenant ON tenants FOR SELECT USING (id = current_setting('ostler.tenant', true));
DROP POLICY tenant ON sandbox_usage;
CREATE POLICY tenant ON sandbox_usage FOR SELECT USING (tenant_id = current_setting('ostler.tenant', true));
