//! Reads the initial RAM disk as a kernel does.

use std::collections::BTreeMap;

/// The regular files of the archives by name; a later one replaces an earlier one.
pub(crate) fn files(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    let mut whole = false;
    while at < bytes.len() {
        whole = false;
        let header = bytes.get(at..at + 110).ok_or("a header is cut off")?;
        if &header[..6] != b"070701" {
            return Err(format!("no member of an archive at {at}"));
        }
        let field = |index: usize| {
            let digits =
                std::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).map_err(|e| e.to_string())?;
            usize::from_str_radix(digits, 16).map_err(|e| e.to_string())
        };
        let (mode, length, name_length) = (field(1)?, field(6)?, field(11)?);
        let name = bytes
            .get(at + 110..at + 110 + name_length)
            .ok_or("a name is cut off")?;
        let (0, name) = name.split_last().ok_or("no name")? else {
            return Err("a name does not end".to_owned());
        };
        let name = String::from_utf8(name.to_vec()).map_err(|e| e.to_string())?;
        let start = (at + 110 + name_length).next_multiple_of(4);
        let content = bytes.get(start..start + length).ok_or("a file is cut off")?;
        at = (start + length).next_multiple_of(4);
        if name == "TRAILER!!!" {
            whole = true;
            continue;
        }
        if mode & 0o170_000 == 0o100_000 {
            found.insert(name, content.to_vec());
        }
    }
    if whole {
        Ok(found)
    } else {
        Err("the archive does not end".to_owned())
    }
}
