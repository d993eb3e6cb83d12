//! `ostler snapshot`.

super::noun!(Snapshot {
    /// List the snapshots; `ostler agent snapshot` makes one, `ostler pool set --snapshot` starts from one.
    List(list),
    /// Remove a snapshot.
    Rm(rm),
});

use crate::table::{Colour, Table};
use ostler_contracts::SnapshotView;

fn table(snapshots: &[SnapshotView], colour: Colour) -> String {
    let mut table = Table::new(["NAME", "DRIVER", "POOLS"], colour);
    for snapshot in snapshots {
        let pools = match &snapshot.pools[..] {
            [] => "-".to_owned(),
            pools => pools.join(","),
        };
        table.row([snapshot.name.clone(), snapshot.driver.to_string(), pools]);
    }
    table.or_empty("no snapshots; make one with `ostler agent snapshot AGENT NAME`")
}
