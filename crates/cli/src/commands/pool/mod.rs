//! `ostler pool`.

super::noun!(Pool {
    /// List the pools and how they are doing.
    List(list),
    /// Say how a pool is doing, and what keeps it from being filled.
    Explain(explain),
    /// Make a pool, or change one; what is not named stays as it is.
    Set(set),
});

use crate::table::{Colour, Table};
use ostler_contracts::PoolView;

fn table(pools: &[PoolView], colour: Colour) -> String {
    let header = [
        "NAME", "DRIVER", "IMAGE", "CPUS", "MEMORY", "NETWORK", "WARM", "STARTING", "HELD", "MAX", "TROUBLE",
    ];
    let mut table = Table::new(header, colour);
    for pool in pools {
        let template = &pool.template;
        table.row([
            pool.name.clone(),
            template.driver.to_string(),
            template.image.clone().unwrap_or_else(|| "-".to_owned()),
            template.cpus.to_string(),
            format!("{}M", template.memory_mb),
            template.network.to_string(),
            format!("{}/{}", pool.warm, pool.target),
            pool.provisioning.to_string(),
            pool.held.to_string(),
            pool.max.to_string(),
            pool.unavailable
                .clone()
                .or_else(|| pool.last_error.clone().filter(|_| pool.failures > 0))
                .unwrap_or_default(),
        ]);
    }
    table.or_empty("no pools; make one with `ostler pool set NAME --driver DRIVER`")
}
