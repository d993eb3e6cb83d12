//! How both ends of a serial port agree to begin.
//!
//! A virtual machine has one port to its server, and over it go many connections, multiplexed. A port has no beginning and
//! no end of its own: the server may be killed in the middle of a frame, and a machine restored from a snapshot goes on in
//! a conversation that nobody else remembers. So each conversation begins with messages that name it by random bytes, and
//! what comes before them is thrown away:
//!
//! ```text
//! server  Hello, again and again         → guest   ends any older conversation
//!         ← Ack, once for each Hello
//! server  Go, once                       → guest   whatever follows belongs to the new conversation
//!         ← Started, once; whatever follows belongs to the new conversation
//! ```
//!
//! `End` in the place of `Go` asks the guest to end all programs, and then itself and its machine.

/// Begins with a byte that no frame of the multiplexer begins with, so that one in the middle of an older conversation ends
/// that.
const MAGIC: [u8; 15] = *b"\xffostler-port-1\xff";

/// Bytes of a message.
pub const LENGTH: usize = MAGIC.len() + 1 + NONCE;

/// Bytes that name a conversation.
pub const NONCE: usize = 16;

/// Name of the port in the machine.
pub const NAME: &str = "ostler.0";

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The server is there.
    Hello,
    /// So is the guest.
    Ack,
    /// From here on the server multiplexes.
    Go,
    /// From here on the guest multiplexes.
    Started,
    /// The guest is to end.
    End,
}

const KINDS: [(Kind, u8); 5] = [
    (Kind::Hello, b'H'),
    (Kind::Ack, b'A'),
    (Kind::Go, b'G'),
    (Kind::Started, b'S'),
    (Kind::End, b'E'),
];

/// A message about the conversation of this name.
pub fn message(kind: Kind, nonce: [u8; NONCE]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    for (other, byte) in KINDS {
        if other == kind {
            bytes[MAGIC.len()] = byte;
        }
    }
    bytes[MAGIC.len() + 1..].copy_from_slice(&nonce);
    bytes
}

/// Finds messages among bytes that mean nothing any more.
#[derive(Debug, Default)]
pub struct Scanner {
    bytes: Vec<u8>,
}

impl Scanner {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; everything before it is thrown away.
    pub fn next_message(&mut self) -> Option<(Kind, [u8; NONCE])> {
        loop {
            let found = self.bytes.windows(MAGIC.len()).position(|w| w == MAGIC);
            // The beginning of one may be at the end.
            let start = found.unwrap_or_else(|| self.bytes.len().saturating_sub(MAGIC.len() - 1));
            self.bytes.drain(..start);
            if found.is_none() || self.bytes.len() < LENGTH {
                return None;
            }
            let kind = KINDS.iter().find(|(_, byte)| *byte == self.bytes[MAGIC.len()]);
            let Some((kind, _)) = kind else {
                self.bytes.drain(..=MAGIC.len());
                continue;
            };
            let mut nonce = [0; NONCE];
            nonce.copy_from_slice(&self.bytes[MAGIC.len() + 1..LENGTH]);
            self.bytes.drain(..LENGTH);
            return Some((*kind, nonce));
        }
    }

    /// What was read after the last message.
    pub fn rest(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_between_the_remains_of_frames_however_they_are_cut() {
        let mut stream = b"\0\0\xffostler-port".to_vec();
        stream.extend(message(Kind::Hello, [7; NONCE]));
        stream.extend(b"\xffostler-port-1\xff?");
        stream.extend(message(Kind::Go, [8; NONCE]));
        stream.extend(b"after");
        for piece in 1..stream.len() {
            let mut scanner = Scanner::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                scanner.push(bytes);
                while found.len() < 2
                    && let Some(next) = scanner.next_message()
                {
                    found.push(next);
                }
            }
            assert_eq!(
                found,
                [(Kind::Hello, [7; NONCE]), (Kind::Go, [8; NONCE])],
                "{piece}"
            );
            assert_eq!(scanner.rest(), b"after", "{piece}");
        }
    }

    #[test]
    fn nothing_is_kept_of_what_is_no_message() {
        let mut scanner = Scanner::default();
        for _ in 0..100 {
            scanner.push(&[b'x'; 1000]);
            assert_eq!(scanner.next_message(), None);
        }
        assert!(scanner.rest().len() < MAGIC.len());
    }
}
