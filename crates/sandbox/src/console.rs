//! What the console of a machine says about its kernel: panics, oopses, hangs, kills for want of memory, restarts.
//!
//! Bytes in, a [`Report`] out: nothing here waits, reads files or knows time, so that any bytes can be thrown at it. The
//! bytes come from inside a sandbox and are hostile: memory is bounded, and what is reported is text without control
//! characters. However the bytes are cut into pieces, the report is the same.
//!
//! Where the kernel puts times in front of what it says, only what has one counts as said by the kernel; programs write to
//! the same console. A program that writes to the kernel's own log can forge anything: what is found here is to be told,
//! and to be believed only about the machine itself.
//!
//! ```
//! use ostler_domain::KernelEnd;
//! use ostler_sandbox::console::{Kind, Reader};
//!
//! let mut reader = Reader::default();
//! reader.push(b"[    1.5] x\r\n[    2.500000] Kernel panic - not syncing: VFS: Unable to mount root fs on unk");
//! reader.push(b"nown-block(0,0)\r\n");
//! let report = reader.report();
//! assert_eq!(report.count(Kind::Panic), 1);
//! assert_eq!(report.end(None), Some(KernelEnd::Panic));
//! let why = report.boot_failure().unwrap().to_string();
//! assert_eq!(why, "kernel panic after 2.500 s: VFS: Unable to mount root fs on unknown-block(0,0)");
//! ```

mod kinds;
mod lines;
mod reader;
mod records;
mod report;

pub use reader::Reader;
pub use report::{Event, Kind, Report, Victim};

/// What a console says as plain text: no escape sequences, carriage returns or other control characters, and without the
/// times that the kernel puts in front. For readers of other formats, such as the kernel's TAP. An unfinished last line is
/// kept, without an end.
pub fn plain(bytes: &[u8]) -> String {
    let mut lines = lines::Lines::default();
    let mut text = String::with_capacity(bytes.len());
    let mut add = |line: &[u8], end: &str| {
        let line = lines::text(line);
        let mut first = true;
        for record in records::records(&line) {
            if !std::mem::take(&mut first) {
                text.push('\n');
            }
            text.push_str(record.text);
        }
        text.push_str(end);
    };
    for byte in bytes {
        if let Some(line) = lines.push(*byte) {
            add(&line, "\n");
        }
    }
    add(lines.unfinished(), "");
    text
}
