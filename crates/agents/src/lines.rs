//! Lines out of chunks, with bounded memory.

/// The longest line that is looked at, in bytes without its end. Agents print whole files and images on one line; a
/// program that prints without ever ending a line must not fill the memory.
pub const MAX_LINE: usize = 16 << 20;

/// A line, or the news that there was one too long to keep.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A whole line without its end.
    Whole(&'a [u8]),
    /// A line longer than the limit, with its length.
    TooLong(u64),
}

/// Cuts a stream of chunks into lines. What it reports does not depend on where the chunks were cut.
#[derive(Debug)]
pub(crate) struct Lines {
    limit: usize,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Length of the present line once it is too long; `partial` is empty then.
    dropped: Option<u64>,
}

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
            dropped: None,
        }
    }

    /// Adds a chunk and reports each line that ends in it.
    pub(crate) fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if self.dropped.is_none() && self.partial.is_empty() && line.len() <= self.limit {
                each(Line::Whole(line));
            } else {
                self.add(line);
                self.end(&mut each);
            }
            chunk = rest;
        }
        self.add(chunk);
    }

    /// Reports the last line if it had no end.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if self.dropped.is_some() || !self.partial.is_empty() {
            self.end(&mut each);
        }
    }

    fn add(&mut self, part: &[u8]) {
        if let Some(length) = &mut self.dropped {
            *length += part.len() as u64;
        } else if self.partial.len() + part.len() > self.limit {
            self.dropped = Some((self.partial.len() + part.len()) as u64);
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(part);
        }
    }

    fn end(&mut self, each: &mut impl FnMut(Line<'_>)) {
        if let Some(length) = self.dropped.take() {
            each(Line::TooLong(length));
        } else {
            // Taken, not cleared: one long line must not hold its memory until the end of the run.
            each(Line::Whole(&std::mem::take(&mut self.partial)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(limit: usize, chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::new(limit);
        let mut out = Vec::new();
        let mut each = |line: Line<'_>| out.push(format!("{line:?}"));
        for chunk in chunks {
            lines.push(chunk, &mut each);
        }
        lines.finish(&mut each);
        out
    }

    #[test]
    fn long_lines_are_counted_not_kept() {
        let whole = |text: &str| format!("{:?}", Line::Whole(text.as_bytes()));
        assert_eq!(
            cut(4, &[b"abcd\nabc", b"de\nx"]),
            [whole("abcd"), "TooLong(5)".into(), whole("x")]
        );
        assert_eq!(cut(4, &[b"\n\n"]), [whole(""), whole("")]);
        assert!(cut(4, &[]).is_empty());
    }

    #[test]
    fn memory_stays_bounded_without_any_line_end() {
        let mut lines = Lines::new(1 << 16);
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..30 {
            lines.push(&chunk, |_| {});
            assert!(lines.partial.capacity() <= 1 << 17);
        }
        let mut seen = 0;
        lines.finish(|line| {
            assert_eq!(line, Line::TooLong(30 << 20));
            seen += 1;
        });
        assert_eq!(seen, 1);
    }

    proptest! {
        #[test]
        fn chunk_borders_do_not_matter(text in "[ab\n]{0,40}", cuts in prop::collection::vec(1usize..9, 0..20)) {
            let mut chunks = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (chunk, next) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = next;
            }
            chunks.push(rest);
            prop_assert_eq!(cut(5, &chunks), cut(5, &[text.as_bytes()]));
        }
    }
}
