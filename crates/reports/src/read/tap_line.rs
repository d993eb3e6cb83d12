//! One line of TAP or KTAP.

use crate::text;
use std::time::Duration;

/// Which rules hold where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Subtests are indented by four; `\` escapes; diagnostics come after the result.
    Tap,
    /// Subtests are indented by two or more; nothing escapes; diagnostics come before the result, and on its line after `#`.
    Kernel,
}

/// What a line says, without its indentation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Version(u32),
    Plan { count: usize, skip: Option<&'a str> },
    Test(Test<'a>),
    BailOut(&'a str),
    Comment(&'a str),
    Pragma(&'a str),
    Other,
}

/// A result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Test<'a> {
    pub(crate) ok: bool,
    pub(crate) number: Option<usize>,
    /// Still escaped.
    pub(crate) name: &'a str,
    pub(crate) directive: Option<(Directive, &'a str)>,
    /// What the kernel writes after `#` without a directive.
    pub(crate) diagnostic: Option<&'a str>,
    pub(crate) duration: Option<Duration>,
}

/// What is said about a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    Skip,
    Todo,
    /// The kernel only, like the next two.
    Xfail,
    Timeout,
    Error,
}

const DIRECTIVES: &[(&str, Directive)] = &[
    ("skip", Directive::Skip),
    ("todo", Directive::Todo),
    ("xfail", Directive::Xfail),
    ("timeout", Directive::Timeout),
    ("error", Directive::Error),
];

/// A line of a kernel log without what the kernel puts in front: `<6>[    1.234567][    T1] `.
pub(crate) fn without_prefix(line: &[u8]) -> &[u8] {
    let mut rest = line;
    if let Some(level) = rest.strip_prefix(b"<") {
        let digits = level.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
        match level.get(digits) {
            Some(b'>') if digits > 0 => rest = &level[digits + 1..],
            _ => return line,
        }
    }
    let Some(time) = bracketed(rest) else { return line };
    let (seconds, after) = time;
    let stamp = seconds.trim_ascii_start();
    if !stamp.first().is_some_and(u8::is_ascii_digit)
        || !stamp.contains(&b'.')
        || !stamp.iter().all(|b| b.is_ascii_digit() || *b == b'.')
    {
        return line;
    }
    let after = match bracketed(after) {
        Some((caller, rest)) if matches!(caller.trim_ascii_start().first(), Some(b'T' | b'C')) => rest,
        _ => after,
    };
    after.strip_prefix(b" ").unwrap_or(after)
}

fn bracketed(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"[")?;
    let end = inner.iter().take(32).position(|b| *b == b']')?;
    Some((&inner[..end], &inner[end + 1..]))
}

/// Whether a line without any indentation is a plan or a result.
pub(crate) fn is_mark(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| match Line::of(line, Dialect::Tap, 13) {
        Line::Plan { .. } | Line::BailOut(_) => true,
        // "ok" may be the answer of anything.
        Line::Test(test) => test.number.is_some(),
        _ => false,
    })
}

impl<'a> Line<'a> {
    pub(crate) fn of(body: &'a str, dialect: Dialect, version: u32) -> Self {
        if let Some(comment) = body.strip_prefix('#') {
            return Line::Comment(comment.strip_prefix(' ').unwrap_or(comment));
        }
        if let Some(number) = body
            .strip_prefix("TAP version ")
            .or_else(|| body.strip_prefix("KTAP version "))
        {
            return number.trim().parse().map_or(Line::Other, Line::Version);
        }
        if let Some(reason) = body.strip_prefix("Bail out!") {
            return Line::BailOut(reason.trim());
        }
        if let Some(pragma) = body.strip_prefix("pragma ") {
            return Line::Pragma(pragma.trim());
        }
        if let Some(plan) = body.strip_prefix("1..") {
            return plan_of(plan).unwrap_or(Line::Other);
        }
        test(body, dialect, version).map_or(Line::Other, Line::Test)
    }
}

fn plan_of(plan: &str) -> Option<Line<'_>> {
    let digits = plan.bytes().take_while(u8::is_ascii_digit).count();
    let count = plan[..digits].parse().ok()?;
    let rest = plan[digits..].trim();
    let comment = rest.strip_prefix('#').map(str::trim);
    if comment.is_none() && !rest.is_empty() {
        return None;
    }
    let skip = comment.and_then(|comment| match directive(comment) {
        Some((Directive::Skip, reason)) => Some(reason),
        _ => None,
    });
    Some(Line::Plan { count, skip })
}

fn test(body: &str, dialect: Dialect, version: u32) -> Option<Test<'_>> {
    let (ok, rest) = match body.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, body.strip_prefix("ok")?),
    };
    if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return None;
    }
    let rest = rest.trim();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let after = &rest[digits..];
    let (number, rest) = match rest[..digits].parse() {
        Ok(number) if after.is_empty() || after.starts_with([' ', '\t', '#']) => {
            (Some(number), after.trim_start())
        }
        _ => (None, rest),
    };
    let rest = match rest.strip_prefix('-') {
        Some(after) if after.is_empty() || after.starts_with([' ', '\t']) => after.trim_start(),
        _ => rest,
    };
    let mut test = Test {
        ok,
        number,
        name: rest,
        directive: None,
        diagnostic: None,
        duration: None,
    };
    let mut before = b' ';
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        if byte == b'#' && !escaped && matches!(before, b' ' | b'\t') {
            let after = rest[at + 1..].trim();
            let known = directive(after).filter(|(what, _)| {
                dialect == Dialect::Kernel || matches!(what, Directive::Skip | Directive::Todo)
            });
            let time = time(after);
            if known.is_some() || time.is_some() || dialect == Dialect::Kernel {
                test.name = rest[..at].trim_end();
                test.directive = known;
                test.duration = time;
                test.diagnostic = (known.is_none() && time.is_none() && !after.is_empty()).then_some(after);
                break;
            }
        }
        escaped = byte == b'\\' && !escaped && dialect == Dialect::Tap && version >= 13;
        before = byte;
    }
    Some(test)
}

fn directive(comment: &str) -> Option<(Directive, &str)> {
    for (word, directive) in DIRECTIVES {
        if comment
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
        {
            let rest = &comment[word.len()..];
            // `Skipped:` is in old plans.
            let long = rest.get(..3).is_some_and(|end| end.eq_ignore_ascii_case("ped"));
            let rest = if *directive == Directive::Skip && long {
                &rest[3..]
            } else {
                rest
            };
            if rest.is_empty() || rest.starts_with([' ', '\t', ':']) {
                return Some((*directive, rest.trim_start_matches([' ', '\t', ':'])));
            }
        }
    }
    None
}

/// `time=12.5ms`, as node-tap writes it.
fn time(comment: &str) -> Option<Duration> {
    let time = comment.strip_prefix("time=")?;
    match time.strip_suffix("ms") {
        Some(millis) => Some(text::seconds(millis)?.div_f64(1000.0)),
        None => text::seconds(time.strip_suffix('s')?),
    }
}

/// A name or a reason without escapes. Before version 14 only `#` was escaped.
pub(crate) fn unescaped(text: &str, dialect: Dialect, version: u32) -> String {
    if dialect == Dialect::Kernel || !text.contains('\\') {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = character == '\\'
            && characters
                .peek()
                .is_some_and(|next| *next == '#' || (*next == '\\' && version >= 14));
        plain.push(if escaped {
            characters.next().unwrap_or('\\')
        } else {
            character
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(body: &str) -> (String, Option<(Directive, &str)>) {
        match Line::of(body, Dialect::Tap, 14) {
            Line::Test(test) => (unescaped(test.name, Dialect::Tap, 14), test.directive),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn results_of_tap() {
        for (line, name, directive) in [
            ("ok", "", None),
            ("ok 1", "", None),
            ("ok 1 - name", "name", None),
            ("not ok 1 name", "name", None),
            ("ok - 5 apples", "5 apples", None),
            ("ok 5apples", "5apples", None),
            ("ok 1 - - dash", "- dash", None),
            (r"ok 1 - a \# skip b", "a # skip b", None),
            (r"ok 1 - a \\ # skip b", r"a \", Some((Directive::Skip, "b"))),
            ("ok 1 # skip", "", Some((Directive::Skip, ""))),
            ("ok 1 # SKIPPED: why", "", Some((Directive::Skip, "why"))),
            (
                "ok 1 - issue #5 # TODO later",
                "issue #5",
                Some((Directive::Todo, "later")),
            ),
            ("ok 1 - a # skipping stones", "a # skipping stones", None),
            ("ok 1 - a#skip", "a#skip", None),
        ] {
            assert_eq!(name_of(line), (name.to_owned(), directive), "{line}");
        }
        for line in ["okay", "not okay 1", "notok", "ok1"] {
            assert_eq!(Line::of(line, Dialect::Tap, 14), Line::Other, "{line}");
        }
    }

    #[test]
    fn prefixes_of_the_kernel() {
        for (line, rest) in [
            ("[    1.234567] ok 1", "ok 1"),
            ("[    1.234567]     ok 1", "    ok 1"),
            ("<6>[   12.000001][    T1] 1..2", "1..2"),
            ("[  OK  ] Started", "[  OK  ] Started"),
            ("<b>[1.0] x", "<b>[1.0] x"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_prefix(line.as_bytes()), rest.as_bytes(), "{line}");
        }
    }
}
