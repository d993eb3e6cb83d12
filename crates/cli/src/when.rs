//! Times for people.

use ostler_contracts::Time;
use ostler_domain::{Clock, SystemClock, Timestamp};
use std::time::Duration;

/// How long ago, or in how long.
pub(crate) fn ago(time: Time) -> String {
    relative(time.0, SystemClock.now())
}

/// [`ago`], or a dash.
pub(crate) fn ago_or_dash(time: Option<Time>) -> String {
    time.map_or_else(|| "-".to_owned(), ago)
}

/// From one point to another, or to now.
pub(crate) fn between(from: Time, to: Option<Time>) -> String {
    let to = to.map_or_else(|| SystemClock.now(), |to| to.0);
    length(to.since(from.0))
}

fn relative(time: Timestamp, now: Timestamp) -> String {
    if time > now.plus(Duration::from_secs(1)) {
        return format!("in {}", length(time.since(now)));
    }
    let past = now.since(time);
    if past < Duration::from_secs(1) {
        return "now".to_owned();
    }
    format!("{} ago", length(past))
}

/// A length of time in its largest whole unit.
pub(crate) fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        let now = Timestamp(1_000_000_000_000_000);
        for (seconds, wanted) in [
            (0, "now"),
            (5, "5 s ago"),
            (300, "5 min ago"),
            (3 * 3600, "3 h ago"),
            (86_400 * 9, "9 d ago"),
            (-300, "in 5 min"),
        ] {
            assert_eq!(relative(Timestamp(now.0 - seconds * 1_000_000), now), wanted);
        }
    }
}
