//! Values as people write them.

use crate::error::{CliError, Result};
use std::io::Read;
use std::time::Duration;

/// Most that is read from standard input or a file where nothing else is said; the server takes no more.
const MAX_TEXT: u64 = 1 << 20;

/// A size such as `512M` or `2G`, in MiB.
pub(crate) fn mebibytes(text: &str) -> std::result::Result<u64, String> {
    let help = || format!("`{text}` is not a size; write a whole number with a unit, such as 512M or 2G");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| help())?;
    let unit = unit.to_ascii_uppercase();
    let unit = unit
        .strip_suffix("IB")
        .or_else(|| unit.strip_suffix('B'))
        .unwrap_or(&unit);
    let factor = match unit {
        "M" => 1,
        "G" => 1 << 10,
        "T" => 1 << 20,
        _ => return Err(help()),
    };
    match number.checked_mul(factor) {
        Some(0) => Err("a size of nothing is not possible".to_owned()),
        Some(size) => Ok(size),
        None => Err(help()),
    }
}

/// A length of time such as `30s`, `5m` or `1h30m`.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let help =
        || format!("`{text}` is not a length of time; write a number with a unit, such as 30s, 5m or 1h30m");
    let mut rest = text;
    let mut seconds = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| help())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let factor = match &rest[..letters] {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(help()),
        };
        rest = &rest[letters..];
        seconds = number
            .checked_mul(factor)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(help)?;
    }
    if seconds == 0 {
        return Err(help());
    }
    Ok(Duration::from_secs(seconds))
}

/// `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// The text itself, or what standard input holds when it is `-`.
pub(crate) fn text_or_stdin(text: String) -> Result<String> {
    if text == "-" { stdin_text() } else { Ok(text) }
}

/// All of standard input.
pub(crate) fn stdin_text() -> Result<String> {
    read_text("standard input", std::io::stdin().lock())
}

/// JSON: the text itself, `@FILE`, or `-` for standard input.
pub(crate) fn json(text: &str) -> Result<serde_json::Value> {
    let (what, text) = match text.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|source| CliError::Read {
                what: path.to_owned(),
                source,
            })?;
            (path.to_owned(), read_text(path, file)?)
        }
        None if text == "-" => ("standard input".to_owned(), stdin_text()?),
        None => ("the value".to_owned(), text.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| CliError::Usage(format!("{what} is not JSON: {error}")))
}

/// A whole file, or standard input when it is `-`; at most `limit` bytes.
pub(crate) fn file_text(path: &str, limit: u64) -> Result<String> {
    if path == "-" {
        return read_at_most("standard input", std::io::stdin().lock(), limit);
    }
    let file = std::fs::File::open(path).map_err(|source| CliError::Read {
        what: path.to_owned(),
        source,
    })?;
    read_at_most(path, file, limit)
}

fn read_text(what: &str, from: impl Read) -> Result<String> {
    read_at_most(what, from, MAX_TEXT)
}

fn read_at_most(what: &str, from: impl Read, limit: u64) -> Result<String> {
    let failed = |source| CliError::Read {
        what: what.to_owned(),
        source,
    };
    let mut text = String::new();
    from.take(limit + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > limit {
        return Err(CliError::Usage(format!(
            "{what} holds more than {} MiB",
            limit >> 20
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("512M", 512),
            ("2G", 2048),
            ("2GiB", 2048),
            ("1t", 1 << 20),
            ("3mb", 3),
        ] {
            assert_eq!(mebibytes(text), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "512",
            "M",
            "-1G",
            "1.5G",
            "0M",
            "5X",
            "99999999999999999G",
            "5 G",
        ] {
            assert!(mebibytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, wanted) in [
            ("30s", 30),
            ("5m", 300),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("5min", 300),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(wanted)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "5x",
            "0s",
            "1h30",
            "-5s",
            "99999999999999999999s",
            "9999999999999999d",
            "1µ",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("A="), Ok(("A".to_owned(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err());
    }
}
