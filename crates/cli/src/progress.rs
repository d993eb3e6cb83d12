//! What takes long says so.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Waits for `work`, saying on standard error what is going on; on a terminal with the seconds that it takes.
pub(crate) async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    let terminal = std::io::stderr().is_terminal();
    let say = |text: &str| drop(std::io::stderr().write_all(text.as_bytes()));
    say(&format!("{what} ...{}", if terminal { "" } else { "\n" }));
    let start = Instant::now();
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(Duration::from_secs(1)), if terminal => {
                say(&format!("\r{what} ... {} s", start.elapsed().as_secs()));
            }
        }
    };
    if terminal {
        say("\n");
    }
    done
}
