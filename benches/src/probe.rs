//! The limit that the disk itself sets.

use anyhow::{Context, Result};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Milliseconds of each of `count` appends of one block, on disk when it returns: what a durable commit cannot be
/// faster than. Before each the disk rests for `pause`.
pub(crate) fn fsyncs(directory: &Path, count: usize, pause: Duration) -> Result<Vec<f64>> {
    let path = directory.join("fsync");
    let measure = || -> std::io::Result<Vec<f64>> {
        let mut file = std::fs::File::create(&path)?;
        let block = [7; 4096];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            std::thread::sleep(pause);
            let start = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            times.push(milliseconds(start.elapsed()));
        }
        std::fs::remove_file(&path)?;
        Ok(times)
    };
    measure().with_context(|| format!("cannot write in {}", directory.display()))
}

/// As a number.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
