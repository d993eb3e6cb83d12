//! Patterns of paths, compared component by component, so that it is known which directories cannot hold a match.

/// A pattern such as `target/**/*.xml`.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    /// `**`: any number of components.
    Any,
    One(Vec<Token>),
}

#[derive(Debug, Clone)]
enum Token {
    Byte(u8),
    /// `?`
    Single,
    /// `*`
    Many,
    /// `[a-z]`, with `!` none of them.
    Class(bool, Vec<(u8, u8)>),
}

impl Glob {
    /// The error says what is wrong with a pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let explain = |what: &str| format!("the pattern `{pattern}` {what}");
        if pattern.is_empty() || pattern.starts_with('/') {
            return Err(explain("must be a path below the root"));
        }
        let mut parts = Vec::new();
        for part in pattern.trim_start_matches("./").split('/') {
            parts.push(match part {
                "" | "." | ".." => return Err(explain("has a component that names nothing below the root")),
                "**" => Part::Any,
                _ => Part::One(tokens(part).map_err(explain)?),
            });
        }
        Ok(Self { parts })
    }

    /// Whether a path, as components, matches.
    pub(crate) fn matches(&self, path: &[&[u8]]) -> bool {
        self.follow(path)[self.parts.len()]
    }

    /// Whether something below a directory may match.
    pub(crate) fn may_match_below(&self, directory: &[&[u8]]) -> bool {
        self.follow(directory)[..self.parts.len()].contains(&true)
    }

    /// Which parts may come next after a path: all states of the pattern at once, so that no path takes long.
    fn follow(&self, path: &[&[u8]]) -> Vec<bool> {
        let mut at = vec![false; self.parts.len() + 1];
        at[0] = true;
        self.skip(&mut at);
        for component in path {
            let mut next = vec![false; at.len()];
            for (index, part) in self.parts.iter().enumerate().filter(|(index, _)| at[*index]) {
                match part {
                    Part::Any => next[index] = true,
                    Part::One(tokens) if fits(tokens, component) => next[index + 1] = true,
                    Part::One(_) => {}
                }
            }
            self.skip(&mut next);
            at = next;
        }
        at
    }

    /// `**` may stand for nothing.
    fn skip(&self, at: &mut [bool]) {
        for (index, part) in self.parts.iter().enumerate() {
            if at[index] && matches!(part, Part::Any) {
                at[index + 1] = true;
            }
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, &'static str> {
    let mut bytes = text.bytes().peekable();
    let mut tokens = Vec::new();
    while let Some(byte) = bytes.next() {
        tokens.push(match byte {
            b'?' => Token::Single,
            b'*' => Token::Many,
            b'\\' => Token::Byte(bytes.next().ok_or("ends in the middle of an escape")?),
            b'[' => {
                let negated = bytes.next_if(|&b| b == b'!' || b == b'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let first = bytes.next().ok_or("has a bracket that is not closed")?;
                    if first == b']' && !ranges.is_empty() {
                        break;
                    }
                    let mut last = first;
                    let mut ahead = bytes.clone();
                    if ahead.next() == Some(b'-') && ahead.next().is_some_and(|b| b != b']') {
                        bytes.next();
                        last = bytes.next().unwrap_or(first);
                    }
                    ranges.push((first, last));
                }
                Token::Class(negated, ranges)
            }
            other => Token::Byte(other),
        });
    }
    Ok(tokens)
}

/// Whether one component fits. Goes back to the last `*` only, which is enough.
fn fits(tokens: &[Token], text: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut last_many = None;
    while at < text.len() {
        let one = match tokens.get(token) {
            Some(Token::Many) => {
                last_many = Some((token, at));
                token += 1;
                continue;
            }
            Some(Token::Single) => true,
            Some(Token::Byte(byte)) => *byte == text[at],
            Some(Token::Class(negated, ranges)) => {
                let within = |(first, last): &(u8, u8)| (*first..=*last).contains(&text[at]);
                ranges.iter().any(within) != *negated
            }
            None => false,
        };
        if one {
            token += 1;
            at += 1;
        } else if let Some((many, from)) = last_many {
            last_many = Some((many, from + 1));
            token = many + 1;
            at = from + 1;
        } else {
            return false;
        }
    }
    tokens[token..].iter().all(|token| matches!(token, Token::Many))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> Vec<&[u8]> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .map(str::as_bytes)
            .collect()
    }

    #[test]
    fn patterns_match_as_shells_have_them() {
        for (pattern, path, matches) in [
            ("a.xml", "a.xml", true),
            ("a.xml", "b/a.xml", false),
            ("*.xml", "a.xml", true),
            ("*.xml", "b/a.xml", false),
            ("**/*.xml", "a.xml", true),
            ("**/*.xml", "b/c/a.xml", true),
            ("target/**", "target/a/b", true),
            ("target/**", "targets/a", false),
            ("a/**/b/*c*d", "a/x/b/y/b/ccdcd", true),
            ("a/**/b", "a/b", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("./a", "a", true),
            ("*", ".hidden", true),
            (
                "*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac",
                false,
            ),
        ] {
            let glob = Glob::new(pattern).unwrap();
            assert_eq!(glob.matches(&split(path)), matches, "{pattern} {path}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a[b", "a\\", "a/"] {
            assert!(Glob::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_that_cannot_hold_a_match_are_known() {
        let glob = Glob::new("target/*/reports/**/*.xml").unwrap();
        for (dir, may) in [
            ("", true),
            ("target", true),
            ("node_modules", false),
            ("target/debug", true),
            ("target/debug/deps", false),
            ("target/debug/reports/a/b", true),
        ] {
            assert_eq!(glob.may_match_below(&split(dir)), may, "{dir}");
        }
        assert!(!Glob::new("a.xml").unwrap().may_match_below(&split("a.xml")));
    }
}
