//! Reading a tar stream that nobody vouches for, piece by piece.
//!
//! The framing is read here because it must be bounded: a reader of whole archives keeps long names in memory, however
//! long the stream says they are, and blocks a thread. The fields of a header are read by the `tar` crate.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::fmt::Display;
use std::time::Duration;
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Longest extension of a header: a long name, or attributes.
const MAX_EXTENSION: u64 = 64 << 10;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the stream broke off: {0}")]
    Input(String),
    #[error("the stream stood still for {} s", .0.as_secs())]
    Standstill(Duration),
    #[error("the archive ends in the middle")]
    Short,
    #[error("the archive is damaged: {0}")]
    Header(&'static str),
    #[error("the archive goes on beyond {0} bytes, more than what may be kept can need")]
    Endless(u64),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Sparse,
    Special,
}

/// An entry; its content follows in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) kind: Kind,
}

/// An archive that is being read.
pub(crate) struct Archive<S> {
    input: S,
    /// What was received and not yet read.
    piece: Bytes,
    /// Of the content of the present entry.
    content: u64,
    /// Behind that content, to the next block.
    padding: u64,
    /// Bytes received, and how many there may be.
    received: u64,
    most: u64,
    standstill: Duration,
}

impl<S, E> Archive<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    /// Reads at most `most` bytes of `input`, which may pause for `standstill` at a time.
    pub(crate) fn new(input: S, most: u64, standstill: Duration) -> Self {
        Self {
            input,
            piece: Bytes::new(),
            content: 0,
            padding: 0,
            received: 0,
            most,
            standstill,
        }
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Entry>, Broken> {
        let (mut long_path, mut long_size) = (None, None);
        loop {
            self.skip_entry().await?;
            let block = self.block().await?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            if sum(&block) != header.cksum().map_err(|_| Broken::Header("no checksum"))? {
                return Err(Broken::Header("a checksum is wrong"));
            }
            let size = header
                .entry_size()
                .map_err(|_| Broken::Header("a size is no number"))?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.extension(size).await?;
                    // Other zero bytes are no part of a name and are refused as such.
                    name.pop_if(|last| *last == 0);
                    long_path = Some(name);
                    continue;
                }
                EntryType::XHeader => {
                    let attributes = self.extension(size).await?;
                    let (path, size) = attributes_of(&attributes)?;
                    long_path = path.or(long_path);
                    long_size = size.or(long_size);
                    continue;
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {
                    self.begin(size)?;
                    continue;
                }
                _ => {}
            }
            if kind == EntryType::GNUSparse {
                let mut more = block[482] != 0;
                while more {
                    more = self.block().await?[504] != 0;
                }
            }
            let size = long_size.unwrap_or(size);
            self.begin(size)?;
            let path = long_path.unwrap_or_else(|| header.path_bytes().into_owned());
            return Ok(Some(Entry {
                size,
                kind: match kind {
                    // An old way to write a directory.
                    EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
                    EntryType::Regular | EntryType::Continuous => Kind::File,
                    EntryType::Directory => Kind::Directory,
                    EntryType::Link | EntryType::Symlink => Kind::Link,
                    EntryType::GNUSparse => Kind::Sparse,
                    _ => Kind::Special,
                },
                path,
            }));
        }
    }

    /// The next piece of the present entry's content; `None` at its end.
    pub(crate) async fn data(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.content == 0 {
            return Ok(None);
        }
        let piece = self.take(self.content).await?.ok_or(Broken::Short)?;
        self.content -= piece.len() as u64;
        Ok(Some(piece))
    }

    fn begin(&mut self, size: u64) -> Result<(), Broken> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or(Broken::Header("a size is impossible"))?;
        (self.content, self.padding) = (size, padded - size);
        Ok(())
    }

    async fn skip_entry(&mut self) -> Result<(), Broken> {
        while self.data().await?.is_some() {}
        while self.padding > 0 {
            let piece = self.take(self.padding).await?.ok_or(Broken::Short)?;
            self.padding -= piece.len() as u64;
        }
        Ok(())
    }

    async fn extension(&mut self, size: u64) -> Result<Vec<u8>, Broken> {
        if size > MAX_EXTENSION {
            return Err(Broken::Header("a name is impossibly long"));
        }
        self.begin(size)?;
        let mut all = Vec::with_capacity(size as usize);
        while let Some(piece) = self.data().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    async fn block(&mut self) -> Result<[u8; BLOCK], Broken> {
        let (mut block, mut filled) = ([0; BLOCK], 0);
        while filled < BLOCK {
            let piece = self.take((BLOCK - filled) as u64).await?.ok_or(Broken::Short)?;
            block[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
        Ok(block)
    }

    /// At least one and at most `most` bytes; `None` at the end of the stream.
    async fn take(&mut self, most: u64) -> Result<Option<Bytes>, Broken> {
        while self.piece.is_empty() {
            let next = tokio::time::timeout(self.standstill, self.input.next()).await;
            self.piece = match next.map_err(|_| Broken::Standstill(self.standstill))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Broken::Input(error.to_string())),
                Some(Ok(piece)) => piece,
            };
            self.received = self.received.saturating_add(self.piece.len() as u64);
            if self.received > self.most {
                return Err(Broken::Endless(self.most));
            }
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.piece.len());
        Ok(Some(self.piece.split_to(length)))
    }
}

/// The checksum of a header: its bytes added, its own field counted as spaces.
fn sum(block: &[u8; BLOCK]) -> u32 {
    let bytes = block.iter().enumerate();
    bytes
        .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum()
}

/// The path and size of extended attributes: `LENGTH KEY=VALUE\n`, where the length counts itself.
fn attributes_of(mut rest: &[u8]) -> Result<(Option<Vec<u8>>, Option<u64>), Broken> {
    const WRONG: Broken = Broken::Header("attributes are not as they should be");
    let number = |text: &[u8]| {
        std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let (mut path, mut size) = (None, None);
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or(WRONG)?;
        let length = number(&rest[..space]).ok_or(WRONG)? as usize;
        if length > rest.len() || length < space + 2 || rest[length - 1] != b'\n' {
            return Err(WRONG);
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => path = Some(value.to_vec()),
            b"size" => size = Some(number(value).ok_or(WRONG)?),
            _ => {}
        }
        rest = &rest[length..];
    }
    Ok((path, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn pieces(bytes: &[u8], size: usize) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
        let all: Vec<_> = bytes
            .chunks(size)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        stream::iter(all)
    }

    async fn entries(bytes: &[u8], size: usize) -> (Vec<(Entry, Vec<u8>)>, Option<Broken>) {
        let mut archive = Archive::new(pieces(bytes, size), 1 << 30, Duration::from_secs(5));
        let mut found = Vec::new();
        loop {
            let entry = match archive.next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => return (found, None),
                Err(broken) => return (found, Some(broken)),
            };
            let mut content = Vec::new();
            loop {
                match archive.data().await {
                    Ok(Some(piece)) => content.extend_from_slice(&piece),
                    Ok(None) => break,
                    Err(broken) => return (found, Some(broken)),
                }
            }
            found.push((entry, content));
        }
    }

    fn written(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, path, content.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            files in proptest::collection::vec(("[a-z]{1,9}(/[a-zä]{1,150}){0,3}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..6),
            size in 1usize..2000,
        ) {
            let (found, broken) = block_on(entries(&written(&files), size));
            prop_assert_eq!(broken, None);
            let found: Vec<_> = found.into_iter().map(|(entry, content)| (String::from_utf8(entry.path).unwrap(), content)).collect();
            prop_assert_eq!(found, files);
        }

        #[test]
        fn a_cut_archive_gives_what_is_whole_and_says_so(cut in 0usize..8000) {
            let files: Vec<_> = (0..4).map(|n| (format!("file-{n}"), vec![n; 700])).collect();
            let whole = written(&files);
            let cut = cut.min(whole.len());
            let (found, broken) = block_on(entries(&whole[..cut], 100));
            // Each file takes a header and two blocks; the end is told by one block of zeros.
            prop_assert_eq!(broken.is_none(), cut >= 4 * 3 * BLOCK + BLOCK);
            prop_assert_eq!(found.len(), (0..4).filter(|n| cut >= n * 3 * BLOCK + BLOCK + 700).count());
            for (at, (entry, content)) in found.iter().enumerate() {
                prop_assert_eq!(&entry.path, files[at].0.as_bytes());
                prop_assert_eq!(content, &files[at].1);
            }
        }

        #[test]
        fn no_bytes_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            headers in proptest::collection::vec((0usize..6, any::<u64>(), any::<u8>()), 0..4),
        ) {
            // Headers whose checksum is right get further into the reader than noise does.
            for (at, size, kind) in headers {
                let mut header = Header::new_gnu();
                header.set_size(size >> (size % 64));
                header.set_entry_type(EntryType::new(kind));
                header.set_cksum();
                let at = at * BLOCK;
                if bytes.len() >= at + BLOCK {
                    bytes[at..at + BLOCK].copy_from_slice(header.as_bytes());
                }
            }
            block_on(entries(&bytes, 333));
        }

        #[test]
        fn no_attributes_panic(bytes in proptest::collection::vec(prop_oneof![Just(b'1'), Just(b' '), Just(b'='), Just(b'\n'), any::<u8>()], 0..60)) {
            drop(attributes_of(&bytes));
        }
    }

    #[test]
    fn attributes_give_path_and_size() {
        let found = attributes_of(b"30 mtime=1700000000.123456789\n12 path=a\nb\n9 size=7\n").unwrap();
        assert_eq!(found, (Some(b"a\nb".to_vec()), Some(7)));
        assert!(attributes_of(b"99 path=a\n").is_err());
        assert!(attributes_of(b"3 =").is_err());
        assert!(attributes_of(b"0 \n").is_err());
    }

    #[test]
    fn a_name_that_is_said_to_be_huge_is_not_waited_for() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let (_, broken) = block_on(entries(header.as_bytes(), 512));
        assert_eq!(broken, Some(Broken::Header("a name is impossibly long")));
    }

    #[test]
    fn what_never_ends_is_left() {
        let endless = stream::iter(std::iter::repeat_with(|| {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            header.set_cksum();
            Ok::<_, Infallible>(Bytes::copy_from_slice(header.as_bytes()))
        }));
        block_on(async {
            let mut archive = Archive::new(endless, 100_000, Duration::from_secs(5));
            let end = loop {
                match archive.next().await {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(end, Err(Broken::Endless(100_000)));
        });
    }

    #[test]
    fn a_pause_has_a_bound() {
        let silent = stream::pending::<Result<Bytes, Infallible>>();
        let limit = Duration::from_millis(20);
        let end = block_on(async { Archive::new(silent, 1000, limit).next().await });
        assert_eq!(end, Err(Broken::Standstill(limit)));
    }
}
