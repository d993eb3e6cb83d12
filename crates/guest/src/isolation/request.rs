//! What the guest asks of the process that makes isolated programs: a memory file of texts, each ended by a zero byte.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) own_network: bool,
    pub(crate) keep: bool,
    pub(crate) scratch_bytes: u64,
    pub(crate) cwd: OsString,
    /// Empty: only to find out whether it works.
    pub(crate) argv: Vec<OsString>,
    /// `NAME=VALUE`
    pub(crate) env: Vec<OsString>,
}

impl Request {
    /// Fails for a text that holds a zero byte.
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let numbers = format!(
            "{} {} {} {}",
            u8::from(self.own_network),
            u8::from(self.keep),
            self.scratch_bytes,
            self.argv.len()
        );
        let mut all = Vec::new();
        let texts = [OsStr::new(&numbers), &self.cwd];
        for text in texts
            .into_iter()
            .chain(self.argv.iter().chain(&self.env).map(AsRef::as_ref))
        {
            if text.as_bytes().contains(&0) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte"));
            }
            all.extend_from_slice(text.as_bytes());
            all.push(0);
        }
        Ok(all)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(&[0])?;
        let mut texts = bytes.split(|&byte| byte == 0);
        let numbers = str::from_utf8(texts.next()?).ok()?;
        let numbers: Vec<u64> = numbers
            .split(' ')
            .map(|n| n.parse().ok())
            .collect::<Option<_>>()?;
        let [own_network, keep, scratch_bytes, argc] = numbers[..] else {
            return None;
        };
        let mut texts = texts.map(|text| OsString::from_vec(text.to_vec()));
        let cwd = texts.next()?;
        let argv: Vec<OsString> = texts.by_ref().take(argc as usize).collect();
        (argv.len() as u64 == argc).then(|| Self {
            own_network: own_network != 0,
            keep: keep != 0,
            scratch_bytes,
            cwd,
            argv,
            env: texts.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_were() {
        let full = Request {
            own_network: true,
            keep: true,
            scratch_bytes: u64::MAX,
            cwd: "/a b".into(),
            argv: vec![
                "sh".into(),
                "-c".into(),
                OsString::from_vec(vec![0xff, b'\n']),
                "".into(),
            ],
            env: vec!["A=".into(), "B=x=y".into()],
        };
        for request in [full.clone(), Request::default()] {
            assert_eq!(Request::decode(&request.encode().unwrap()), Some(request));
        }
        let mut bad = full;
        bad.argv.push("a\0b".into());
        assert!(bad.encode().is_err());
        for garbage in [&b""[..], b"1 2 3 4", b"1 2 3\0/\0", b"0 0 0 9\0/\0a\0", b"x\0"] {
            assert_eq!(Request::decode(garbage), None, "{garbage:?}");
        }
    }
}
