//! The keys that credentials are sealed with, and the sealing.

use crate::{ControlError, Result};
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ostler_gateway::Secret;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The variable that holds the key; several, of which the first is the newest, are separated by commas.
pub(super) const VARIABLE: &str = "OSTLER_CREDENTIAL_KEY";

/// What a value becomes.
pub(super) struct Sealed {
    pub(super) ciphertext: String,
    pub(super) nonce: String,
    pub(super) key_id: String,
}

/// A key of 256 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn new() -> Self {
        Self(rand::random())
    }

    /// By which a sealed value names its key, and which tells nothing about it.
    pub(super) fn id(&self) -> String {
        let digest = Sha256::new()
            .chain_update(b"ostler credential key")
            .chain_update(self.0)
            .finalize();
        digest.iter().take(8).fold(String::new(), |mut text, byte| {
            // Writing into a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Seals a value for one place: what is opened elsewhere does not open.
    pub(super) fn seal(&self, place: &str, value: &str) -> Result<Sealed> {
        // 96 random bits: with fewer than 2^32 values under one key two alike are out of the question.
        let nonce: [u8; 12] = rand::random();
        let payload = Payload {
            msg: value.as_bytes(),
            aad: place.as_bytes(),
        };
        let ciphertext = Aes256Gcm::new(&self.0.into())
            .encrypt(&nonce.into(), payload)
            .map_err(|_| ControlError::TooLarge("the value is too large to be sealed".into()))?;
        Ok(Sealed {
            ciphertext: STANDARD.encode(ciphertext),
            nonce: STANDARD.encode(nonce),
            key_id: self.id(),
        })
    }

    /// `None` if it was not sealed with this key, for this place, or was changed since.
    pub(super) fn open(&self, place: &str, ciphertext: &str, nonce: &str) -> Option<Secret> {
        let ciphertext = STANDARD.decode(ciphertext).ok()?;
        let nonce: [u8; 12] = STANDARD.decode(nonce).ok()?.try_into().ok()?;
        let payload = Payload {
            msg: &ciphertext,
            aad: place.as_bytes(),
        };
        let value = Aes256Gcm::new(&self.0.into())
            .decrypt(&nonce.into(), payload)
            .ok()?;
        String::from_utf8(value).ok().map(Secret::new)
    }
}

/// Where the keys are kept.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// By the operator, who gives them in the environment.
    Environment,
    /// In a file that only its owner can read.
    File(PathBuf),
}

/// All keys that this server has.
pub(crate) struct Ring {
    pub(super) keys: Vec<Key>,
    pub(super) source: Source,
}

impl Ring {
    /// From the variable's value if there is one, otherwise from the file, which need not exist.
    pub(super) fn read(variable: Option<&str>, file: &Path) -> Result<Self> {
        let (text, source) = match variable.filter(|text| !text.trim().is_empty()) {
            Some(text) => (text.to_owned(), Source::Environment),
            None => (read_private(file)?, Source::File(file.to_owned())),
        };
        let words = text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty());
        let keys: Option<Vec<Key>> = words
            .map(|word| STANDARD.decode(word).ok()?.try_into().ok().map(Key))
            .collect();
        let place = match &source {
            Source::Environment => VARIABLE.to_owned(),
            Source::File(path) => path.display().to_string(),
        };
        match keys {
            Some(keys) => Ok(Self { keys, source }),
            // What it holds may be most of a key, and is not repeated.
            None => Err(ControlError::Invalid(format!(
                "{place} does not hold a key for credentials: it must be 32 bytes in base 64, as \
                 `head -c 32 /dev/urandom | base64` makes them"
            ))),
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// Keeps these keys from now on: on disk first, where they are kept on disk.
    pub(super) fn keep(&mut self, keys: Vec<Key>) -> Result<()> {
        if let Source::File(path) = &self.source {
            write_private(path, &keys).map_err(|error| {
                ControlError::Unavailable(format!(
                    "the key for credentials cannot be kept in {}: {error}",
                    path.display()
                ))
            })?;
        }
        self.keys = keys;
        Ok(())
    }
}

/// The text of a key file; empty when there is none.
fn read_private(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        ControlError::Unavailable(format!(
            "the key for credentials cannot be read from {}: {error}",
            path.display()
        ))
    };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            return Err(ControlError::Invalid(format!(
                "others can read the key for credentials in {path}; make it yours alone with `chmod 600 {path}`",
                path = path.display()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(error)),
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Replaces the file as a whole, so that whatever instant the server is killed at, one of the two is there.
fn write_private(path: &Path, keys: &[Key]) -> std::io::Result<()> {
    let text: String = keys.iter().map(|key| STANDARD.encode(key.0) + "\n").collect();
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_in_its_place_only() {
        let (key, other) = (Key::new(), Key::new());
        let sealed = key.seal("here", "a secret").unwrap();
        let again = key.seal("here", "a secret").unwrap();
        assert_ne!(
            sealed.ciphertext, again.ciphertext,
            "every time with another nonce"
        );
        let open = |key: &Key, place: &str, text: &str| key.open(place, text, &sealed.nonce);
        assert_eq!(
            open(&key, "here", &sealed.ciphertext).unwrap().expose(),
            "a secret"
        );
        assert!(open(&key, "there", &sealed.ciphertext).is_none());
        assert!(open(&other, "here", &sealed.ciphertext).is_none());
        assert!(key.open("here", &sealed.ciphertext, &again.nonce).is_none());
        let mut bytes = STANDARD.decode(&sealed.ciphertext).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(
                open(&key, "here", &STANDARD.encode(&bytes)).is_none(),
                "byte {at}"
            );
            bytes[at] ^= 1;
        }
        for broken in ["", "?", "AAAA"] {
            assert!(
                open(&key, "here", broken).is_none()
                    && key.open("here", &sealed.ciphertext, broken).is_none()
            );
        }
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credential-key");
        let mut ring = Ring::read(None, &path).unwrap();
        assert!(ring.keys.is_empty() && !path.exists());
        let keys = vec![Key::new(), Key::new()];
        ring.keep(keys.clone()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Ring::read(None, &path).unwrap().keys == keys);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Ring::read(None, &path).err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn the_environment_goes_before_the_file_and_mistakes_are_named_without_the_key() {
        let path = Path::new("/nowhere/credential-key");
        let key = Key::new();
        let text = STANDARD.encode(key.0);
        let ring = Ring::read(Some(&format!("{text}, {}", STANDARD.encode([7; 32]))), path).unwrap();
        assert!(ring.keys == [key, Key([7; 32])] && ring.get(&key.id()) == Some(&key));
        assert!(
            Ring::read(Some(" "), path).unwrap().keys.is_empty(),
            "set to nothing is not set"
        );
        for wrong in ["c2hvcnQ=", "not base 64 at all", &text[1..]] {
            let error = Ring::read(Some(wrong), path).err().unwrap().to_string();
            assert!(error.contains(VARIABLE) && !error.contains(wrong), "{error}");
        }
    }
}
