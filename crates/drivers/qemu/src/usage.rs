//! What a machine has used.

use crate::error::Error;
use crate::qmp::Qmp;
use ostler_sandbox::Usage;
use ostler_sandbox::process::Identity;
use serde_json::{Value, json};

/// What QEMU's process and its drives say.
pub(crate) async fn of(qemu: Identity, mut qmp: Qmp) -> Result<Usage, Error> {
    let blocks = qmp.execute("query-blockstats", json!({})).await?;
    Ok(Usage {
        cpu_us: qemu.cpu_us(),
        memory_bytes: resident(qemu.pid),
        read_bytes: Some(sum(&blocks, "rd_bytes")),
        written_bytes: Some(sum(&blocks, "wr_bytes")),
        ..Usage::default()
    })
}

fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

fn sum(blocks: &Value, name: &str) -> u64 {
    let drives = blocks.as_array().into_iter().flatten();
    drives.filter_map(|d| d["stats"][name].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_drives_count() {
        let blocks = json!([{ "stats": { "rd_bytes": 5 } }, { "stats": { "rd_bytes": 7 } }, {}]);
        assert_eq!(sum(&blocks, "rd_bytes"), 12);
        assert!(resident(std::process::id() as i32).unwrap() > 100_000);
    }
}
