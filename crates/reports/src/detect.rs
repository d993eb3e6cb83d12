//! Which format some bytes are.

use crate::read::{libtest_text, tap_line};
use crate::text;

/// A format of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JUnit XML, as surefire, pytest, googletest and nextest write it. Source: the Jenkins xUnit schema
    /// (`junit-10.xsd`) and the surefire schema (`surefire-test-report.xsd`); there is no other standard.
    Junit,
    /// Test Anything Protocol 12, 13 and 14. Source: `testanything.org`, "TAP 14 specification".
    Tap,
    /// The kernel's variant, also in the middle of a console log. Source: `docs.kernel.org`, "The Kernel Test Anything
    /// Protocol (KTAP), version 1".
    Ktap,
    /// JSON events of Rust's libtest (`--format json`) and of nextest (`--message-format libtest-json` and
    /// `libtest-json-plus`). Source: Rust RFC 3558 and the nextest book, "Machine-readable output".
    LibtestJson,
    /// What Rust's libtest writes for people; stable cargo has nothing else. Source: "The rustc book", "Tests".
    LibtestText,
    /// What [`write_json_lines`](crate::write_json_lines) writes.
    JsonLines,
}

/// Which format the bytes are, by the first line that only one of them has. `None` if none has any such line.
///
/// A bare `TAP version 13` is [`Format::Tap`]; whoever reads a kernel's console should say [`Format::Ktap`] instead.
pub fn detect(bytes: &[u8]) -> Option<Format> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let first = bytes.trim_ascii_start();
    if first.starts_with(b"<") && memchr::memmem::find(first, b"<testsuite").is_some() {
        return Some(Format::Junit);
    }
    let mut tap = false;
    for (_, line) in text::lines(bytes) {
        let line = line.trim_ascii_end();
        let bare = tap_line::without_prefix(line);
        let inner = bare.trim_ascii_start();
        if inner.starts_with(b"KTAP version ") {
            return Some(Format::Ktap);
        }
        if bare.starts_with(b"TAP version ") {
            return Some(if bare.len() < line.len() {
                Format::Ktap
            } else {
                Format::Tap
            });
        }
        if line.starts_with(b"{")
            && let Ok(value) = serde_json::from_slice::<Marks>(line)
        {
            match value {
                Marks {
                    kind: Some(kind),
                    event: Some(_),
                    ..
                } if matches!(kind.as_str(), "suite" | "test" | "bench") => {
                    return Some(Format::LibtestJson);
                }
                Marks {
                    outcome: Some(_),
                    name: Some(_),
                    ..
                } => return Some(Format::JsonLines),
                _ => {}
            }
        }
        if libtest_text::is_mark(line) {
            return Some(Format::LibtestText);
        }
        tap = tap || tap_line::is_mark(line);
    }
    tap.then_some(Format::Tap)
}

#[derive(serde::Deserialize)]
struct Marks {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    event: Option<String>,
    outcome: Option<String>,
    name: Option<String>,
}
