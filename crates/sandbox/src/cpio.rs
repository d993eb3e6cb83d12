//! The archives that kernels unpack as their initial RAM disk: the format `newc` of cpio, see the kernel's
//! `buffer-format.rst`. Several of them may follow each other.

use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTERS: u32 = 0o020_000;

/// An archive that is being written.
#[derive(Debug)]
pub struct Archive<W> {
    to: W,
    entries: u32,
    length: usize,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub const fn new(to: W) -> Self {
        Self {
            to,
            entries: 0,
            length: 0,
        }
    }

    /// Begins with another archive.
    pub fn archive(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)?;
        self.align()
    }

    /// A directory that everybody may look into.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, [0, 0], &[])
    }

    /// A file. An error of kind `FileTooLarge` from 4 GiB on.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | mode, [0, 0], content)
    }

    /// A character device with its major and minor number.
    pub fn device(&mut self, name: &str, mode: u32, number: [u32; 2]) -> io::Result<()> {
        self.entry(name, CHARACTERS | mode, number, &[])
    }

    /// Writes the end and returns what was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, [0, 0], &[])?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, device: [u32; 2], content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned());
        let length = u32::try_from(content.len()).map_err(too_large)?;
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            length,
            0, // device that it is on
            0,
            device[0],
            device[1],
            name.len() as u32 + 1,
            0, // check sum, in another form of archive
        ];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()?;
        self.put(content)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len();
        self.to.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let missing = self.length.next_multiple_of(4) - self.length;
        self.put(&[0; 4][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_aligned_and_say_the_length_of_each_entry() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").unwrap();
        archive.device("dev/console", 0o600, [5, 1]).unwrap();
        archive.file("init", 0o755, b"guest").unwrap();
        archive.file("modules/000-virtio.ko", 0o644, b"module").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0, "another may follow");
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, length) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 109 + length]).unwrap();
            if name == "TRAILER!!!" {
                break;
            }
            let start = (at + 110 + length).next_multiple_of(4);
            let content = std::str::from_utf8(&bytes[start..start + size]).unwrap();
            found.push((name, mode, [field(9), field(10)], content));
            at = (start + size).next_multiple_of(4);
        }
        let wanted = [
            ("dev", 0o040_755, [0, 0], ""),
            ("dev/console", 0o020_600, [5, 1], ""),
            ("init", 0o100_755, [0, 0], "guest"),
            ("modules/000-virtio.ko", 0o100_644, [0, 0], "module"),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn another_archive_may_stand_before_it() {
        let mut archive = Archive::new(Vec::new());
        archive.archive(b"odd").unwrap();
        archive.directory("dev").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..10], b"odd\x00070701");
    }
}
