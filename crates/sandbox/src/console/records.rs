//! What the kernel says, within a line: several processors and programs write at the same time.

use std::time::Duration;

/// Most spaces in front of a number that aligns it.
const SPACES: usize = 16;
/// Digits of the part of a second.
const FRACTION: usize = 6;

/// A piece of a line: what the kernel says after one time, or what somebody says without any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Time since the kernel began.
    pub(super) at: Option<Duration>,
    /// Without the time.
    pub(super) text: &'a str,
}

/// The pieces of a line.
pub(super) fn records(line: &str) -> impl Iterator<Item = Record<'_>> {
    let mut rest = Some(line);
    let mut at = None;
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            let next = text
                .match_indices('[')
                .find_map(|(start, _)| Some((start, prefix(&text[start..])?)));
            let (own, began) = if let Some((start, (time, length))) = next {
                rest = Some(&text[start + length..]);
                (&text[..start], Some(time))
            } else {
                rest = None;
                (text, None)
            };
            let record = Record {
                at: std::mem::replace(&mut at, began),
                text: own,
            };
            // Nothing was said before the first time.
            if record.at.is_some() || !own.is_empty() || rest.is_none() {
                return Some(record);
            }
        }
    })
}

/// `[   12.345678] ` at the beginning, with the thread or processor where the kernel names it: the time, and how long all of
/// it is.
fn prefix(text: &str) -> Option<(Duration, usize)> {
    let inner = text.strip_prefix('[')?.trim_start_matches(' ');
    if text.len() - inner.len() > SPACES {
        return None;
    }
    let digits = |text: &str| text.bytes().take(20).take_while(u8::is_ascii_digit).count();
    let whole = digits(inner);
    let seconds: u64 = inner[..whole].parse().ok()?;
    let fraction = inner[whole..].strip_prefix('.')?;
    if digits(fraction) != FRACTION {
        return None;
    }
    let micros: u64 = fraction[..FRACTION].parse().ok()?;
    let after = fraction[FRACTION..].strip_prefix(']')?;
    let after = caller(after).unwrap_or(after);
    let after = after.strip_prefix(' ').unwrap_or(after);
    let at = Duration::from_secs(seconds) + Duration::from_micros(micros);
    Some((at, text.len() - after.len()))
}

/// What follows the name of the thread (`T12`) or the processor (`C0`) that a record is of.
fn caller(text: &str) -> Option<&str> {
    let inner = text.strip_prefix(' ').unwrap_or(text).strip_prefix('[')?;
    let name = inner.trim_start_matches(' ');
    if inner.len() - name.len() > SPACES {
        return None;
    }
    let number = name.strip_prefix(['T', 'C'])?;
    let end = number.bytes().take(12).take_while(u8::is_ascii_digit).count();
    number[end..].strip_prefix(']').filter(|_| end > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(line: &str) -> Vec<(Option<u64>, &str)> {
        let micros = |at: Duration| at.as_micros() as u64;
        records(line).map(|r| (r.at.map(micros), r.text)).collect()
    }

    #[test]
    fn every_time_begins_a_record() {
        assert_eq!(all("plain [1.5] [x]"), [(None, "plain [1.5] [x]")]);
        assert_eq!(all("[    0.000000] Linux"), [(Some(0), "Linux")]);
        assert_eq!(all("[12345.678901][    T1] a"), [(Some(12_345_678_901), "a")]);
        assert_eq!(all("[    1.000000] [   C12]  b"), [(Some(1_000_000), " b")]);
        assert_eq!(all("[    1.000000] [Tx] b"), [(Some(1_000_000), "[Tx] b")]);
        assert_eq!(
            all("login: [    1.000000] a[    2.000000] b"),
            [(None, "login: "), (Some(1_000_000), "a"), (Some(2_000_000), "b")]
        );
        assert_eq!(all("[    1.000000] "), [(Some(1_000_000), "")]);
        assert_eq!(
            all("[99999999999999999999.000000] x"),
            [(None, "[99999999999999999999.000000] x")]
        );
        assert_eq!(all(""), [(None, "")]);
    }
}
