//! `ostler sandbox`.

super::noun!(Sandbox {
    /// List all sandboxes that are not gone.
    List(list),
    /// List the hosts on which sandboxes are started.
    Hosts(hosts),
    /// End a sandbox, or start nothing on a host any more.
    Drain(drain),
    /// Show what a sandbox has used.
    Usage(usage),
    /// Show a sandbox, also one that is gone.
    Show(show),
});

use crate::table::{Colour, Fields, Table, section};
use crate::when::{ago, ago_or_dash};
use ostler_contracts::SandboxView;

pub(super) fn table(sandboxes: &[SandboxView], colour: Colour, empty: &str) -> String {
    let mut table = Table::new(
        ["ID", "POOL", "DRIVER", "STATUS", "HELD BY", "CREATED", "HEALTHY"],
        colour,
    );
    for sandbox in sandboxes {
        let holder = match (sandbox.for_run, sandbox.tenant_id) {
            (true, _) => "a run",
            (false, Some(_)) => "a tenant",
            (false, None) => "-",
        };
        table.row([
            sandbox.id.to_string(),
            sandbox.pool.clone(),
            sandbox.driver.to_string(),
            sandbox.status.to_string(),
            holder.to_owned(),
            ago(sandbox.created_at),
            ago_or_dash(sandbox.checked_at),
        ]);
    }
    table.or_empty(empty)
}

pub(super) fn fields(sandbox: &SandboxView, colour: Colour) -> String {
    let text = Fields::new(colour)
        .add("Id", sandbox.id)
        .add("Status", sandbox.status)
        .opt("Reason", sandbox.reason.as_ref())
        .add("Pool", &sandbox.pool)
        .add("Driver", sandbox.driver)
        .add("Host", &sandbox.host)
        .opt("Frozen by", sandbox.paused)
        .opt("At the driver", sandbox.driver_ref.as_ref())
        .opt("Tenant", sandbox.tenant_id)
        .opt("Department", sandbox.department_id)
        .add("For a run", if sandbox.for_run { "yes" } else { "no" })
        .opt("Failures", (sandbox.failures > 0).then_some(sandbox.failures))
        .opt(
            "Commands",
            sandbox.tool_allowlist.as_ref().map(|list| list.join(", ")),
        )
        .add("Created", ago(sandbox.created_at))
        .opt("Claimed", sandbox.claimed_at.map(ago))
        .opt("Healthy", sandbox.checked_at.map(ago))
        .opt("Used", sandbox.used_at.map(ago))
        .render();
    let config = match &sandbox.config {
        serde_json::Value::Null => String::new(),
        config => format!("{config:#}"),
    };
    [text, section("Configuration", &config)].concat()
}
