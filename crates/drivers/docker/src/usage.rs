//! What a sandbox has used, by the engine's counters.

use bollard::models::{ContainerBlkioStats, ContainerMemoryStats, ContainerStatsResponse};
use ostler_sandbox::Usage;

/// The engine's counters; `None` for a container that does not run, of which it sends zeros.
pub(crate) fn of(stats: &ContainerStatsResponse) -> Option<Usage> {
    let cpu = stats
        .cpu_stats
        .as_ref()
        .and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    let processes = stats.pids_stats.as_ref().and_then(|pids| pids.current);
    if cpu.unwrap_or(0) == 0 && processes.is_none() {
        return None;
    }
    let networks = || stats.networks.iter().flat_map(|all| all.values());
    let blocks = |op: &str| stats.blkio_stats.as_ref().and_then(|io| block_bytes(io, op));
    Some(Usage {
        cpu_us: cpu.map(|nanoseconds| nanoseconds / 1000),
        memory_bytes: stats.memory_stats.as_ref().and_then(memory),
        read_bytes: blocks("read"),
        written_bytes: blocks("write"),
        received_bytes: stats
            .networks
            .is_some()
            .then(|| networks().filter_map(|n| n.rx_bytes).sum()),
        sent_bytes: stats
            .networks
            .is_some()
            .then(|| networks().filter_map(|n| n.tx_bytes).sum()),
        processes: processes.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
    })
}

/// Without the cached files that the kernel would drop at once, as `docker stats` shows it.
fn memory(memory: &ContainerMemoryStats) -> Option<u64> {
    let cached = memory.stats.as_ref().and_then(|stats| {
        // The names of the two versions of cgroups.
        ["total_inactive_file", "inactive_file"]
            .iter()
            .find_map(|name| stats.get(*name))
    });
    Some(memory.usage?.saturating_sub(cached.copied().unwrap_or(0)))
}

fn block_bytes(io: &ContainerBlkioStats, op: &str) -> Option<u64> {
    let entries = io.io_service_bytes_recursive.as_ref()?;
    let bytes = entries
        .iter()
        .filter(|e| e.op.as_ref().is_some_and(|o| o.eq_ignore_ascii_case(op)))
        .filter_map(|e| e.value)
        .sum();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usage(stats: serde_json::Value) -> Option<Usage> {
        of(&serde_json::from_value(stats).unwrap())
    }

    #[test]
    fn counters_of_both_versions_of_cgroups_are_read() {
        let all = |cached: &str, read: &str| {
            json!({
                "cpu_stats": {"cpu_usage": {"total_usage": 5_000_000}},
                "memory_stats": {"usage": 1000, "stats": {cached: 300}},
                "pids_stats": {"current": 3},
                "blkio_stats": {"io_service_bytes_recursive": [
                    {"major": 8, "minor": 0, "op": read, "value": 10},
                    {"major": 8, "minor": 16, "op": read, "value": 5},
                    {"major": 8, "minor": 0, "op": "Total", "value": 99},
                ]},
                "networks": {"eth0": {"rx_bytes": 7, "tx_bytes": 1}, "eth1": {"rx_bytes": 3, "tx_bytes": 1}},
            })
        };
        let expected = Usage {
            cpu_us: Some(5000),
            memory_bytes: Some(700),
            read_bytes: Some(15),
            written_bytes: Some(0),
            received_bytes: Some(10),
            sent_bytes: Some(2),
            processes: Some(3),
        };
        assert_eq!(usage(all("inactive_file", "read")), Some(expected));
        assert_eq!(usage(all("total_inactive_file", "Read")), Some(expected));
    }

    #[test]
    fn what_is_not_counted_is_not_told() {
        assert_eq!(
            usage(json!({"cpu_stats": {"cpu_usage": {"total_usage": 0}}})),
            None
        );
        let some = usage(json!({"pids_stats": {"current": 1}, "blkio_stats": {}})).unwrap();
        assert_eq!((some.read_bytes, some.received_bytes), (None, None));
    }
}
