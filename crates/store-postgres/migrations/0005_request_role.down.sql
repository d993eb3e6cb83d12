DROP POLICY tenant ON sandbox_usage;
CREATE POLICY tenant ON sandbox_usage USING (tenant_id = current_setting('ostler.tenant', true));
DROP POLICY tenant ON tenants;
CREATE POLICY tenant ON tenants USING (id = current_setting('ostler.tenant', true));
DROP POLICY added ON audit_log;
DROP POLICY tenant ON audit_log;
CREATE POLICY tenant ON audit_log USING (tenant_id = current_setting('ostler.tenant', true));
DROP POLICY added ON events;
DROP POLICY tenant ON events;
CREATE POLICY tenant ON events USING (tenant_id = current_setting('ostler.tenant', true));
DROP POLICY built_in ON roles;
DROP POLICY tenant ON roles;
CREATE POLICY tenant ON roles
    USING (tenant_id IS NULL OR tenant_id = current_setting('ostler.tenant', true))
    WITH CHECK (tenant_id = current_setting('ostler.tenant', true));
ALTER TABLE run_classes DISABLE ROW LEVEL SECURITY;
ALTER TABLE servers DISABLE ROW LEVEL SECURITY;
ALTER TABLE hosts DISABLE ROW LEVEL SECURITY;
DROP POLICY tenant ON pools;
ALTER TABLE pools DISABLE ROW LEVEL SECURITY;
DROP POLICY tenant ON run_ends;
DROP POLICY tenant ON run_delayed;
DROP POLICY tenant ON run_ready;
DROP FUNCTION is_visible_run(BIGINT);
ALTER TABLE run_ends DISABLE ROW LEVEL SECURITY;
ALTER TABLE run_delayed DISABLE ROW LEVEL SECURITY;
ALTER TABLE run_ready DISABLE ROW LEVEL SECURITY;
