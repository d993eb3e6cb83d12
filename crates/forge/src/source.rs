//! Where a project comes from: the usual forms in which people name a repository, reduced to one.

use crate::error::{ForgeError, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// The origin of a project, without credentials.
///
/// The text form ([`fmt::Display`]) is what `Project::source` keeps; parsing it again gives an equal value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// Reached over the network.
    Remote(Remote),
    /// A repository on this machine, by absolute path.
    Local(PathBuf),
}

/// A repository on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Remote {
    scheme: Scheme,
    /// The account of the transport (`git` in `git@host:a/b`); only for ssh.
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// Parts of the path, the last without `.git` where the server is known not to need it.
    path: Vec<String>,
    /// Written `user@host:path`, where the path is relative to the account's home.
    scp: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    Https,
    Http,
    Ssh,
    Git,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
        }
    }
}

/// Forges that serve `owner/name` with and without `.git`, and show web pages below it.
const WELL_KNOWN: &[&str] = &["github.com", "gitlab.com", "bitbucket.org", "codeberg.org"];

const FORMS: &str =
    "write https://host/owner/name, git@host:owner/name, ssh://git@host/owner/name or an absolute path";

fn invalid(reason: impl Into<String>) -> ForgeError {
    ForgeError::InvalidSource {
        reason: reason.into(),
    }
}

impl Source {
    /// Understands a source as a person writes it. Looks at no file and no network.
    ///
    /// `owner/name` and `github.com/owner/name` mean GitHub.
    ///
    /// # Errors
    /// [`ForgeError::InvalidSource`]; its text never repeats what was given, since that may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(invalid(format!("it is empty; {FORMS}")));
        }
        if text.starts_with('-')
            || text.chars().any(|c| c.is_control() || c.is_whitespace()) && !text.starts_with('/')
        {
            return Err(invalid(format!(
                "it starts with `-` or contains white space; {FORMS}"
            )));
        }
        if text.starts_with('/') {
            return local(text);
        }
        let text = text.strip_prefix("git+").unwrap_or(text);
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "https" => with_authority(Scheme::Https, rest),
                "http" => with_authority(Scheme::Http, rest),
                "ssh" => with_authority(Scheme::Ssh, rest),
                "git" => with_authority(Scheme::Git, rest),
                "file" => local(rest.strip_prefix("localhost").unwrap_or(rest)),
                _ => Err(invalid(format!("its scheme is not supported; {FORMS}"))),
            };
        }
        if text.contains("::") {
            return Err(invalid(format!(
                "helpers of git (`name::address`) are not supported; {FORMS}"
            )));
        }
        if text.starts_with("./")
            || text.starts_with("../")
            || text.starts_with('~')
            || text == "."
            || text == ".."
        {
            return Err(invalid(
                "a path must be absolute, because the server does not know the directory that it is relative to",
            ));
        }
        if let Some((account, path)) = text.split_once(':') {
            return scp(account, path);
        }
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        if first.contains('.') && !rest.is_empty() {
            return with_authority(Scheme::Https, text);
        }
        let parts: Vec<&str> = text.trim_end_matches('/').split('/').collect();
        if let [owner, name] = parts.as_slice() {
            return with_authority(Scheme::Https, &format!("github.com/{owner}/{name}"));
        }
        Err(invalid(FORMS))
    }

    /// Who it belongs to: the path before the name, or the directory that a local repository is in.
    pub fn owner(&self) -> String {
        match self {
            Self::Remote(remote) => remote.path[..remote.path.len() - 1].join("/"),
            Self::Local(path) => file_name(path.parent().unwrap_or(path)),
        }
    }

    /// Its name, without `.git`.
    pub fn name(&self) -> String {
        let last = match self {
            Self::Remote(remote) => remote.path.last().cloned().unwrap_or_default(),
            Self::Local(path) => file_name(path),
        };
        match last.strip_suffix(".git") {
            Some(stem) if !stem.is_empty() => stem.to_owned(),
            _ => last,
        }
    }

    /// Equal for two ways of writing the same repository, such as its https and its ssh address: the relative
    /// directory `host/owner/name.git` of its clone. Local repositories are below `_local`.
    pub fn key(&self) -> PathBuf {
        let mut key = PathBuf::new();
        match self {
            Self::Remote(remote) => {
                // The usual ports differ by scheme and say nothing about the repository.
                match remote.port {
                    Some(port) => key.push(format!("{}+{port}", remote.host)),
                    None => key.push(&remote.host),
                }
                key.extend(&remote.path[..remote.path.len() - 1]);
            }
            Self::Local(path) => {
                key.push("_local");
                key.extend(path.parent().into_iter().flat_map(Path::components).skip(1));
            }
        }
        key.push(format!("{}.git", self.name()));
        key
    }

    /// Where credentials may be sent: `https://host[:port]`; none for transports that take no password.
    pub fn credential_origin(&self) -> Option<String> {
        match self {
            Self::Remote(r) if matches!(r.scheme, Scheme::Https | Scheme::Http) => {
                Some(format!("{}://{}{}", r.scheme.as_str(), r.host, port(r.port)))
            }
            _ => None,
        }
    }

    /// The path, if it is on this machine.
    pub fn local_path(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Remote(_) => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Remote(r) if r.scp => {
                let user = r.user.as_deref().unwrap_or("git");
                write!(f, "{user}@{}:{}", r.host, r.path.join("/"))
            }
            Self::Remote(r) => {
                write!(f, "{}://", r.scheme.as_str())?;
                if let Some(user) = &r.user {
                    write!(f, "{user}@")?;
                }
                write!(f, "{}{}/{}", r.host, port(r.port), r.path.join("/"))
            }
        }
    }
}

impl std::str::FromStr for Source {
    type Err = ForgeError;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

fn port(port: Option<u16>) -> String {
    port.map(|p| format!(":{p}")).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn local(text: &str) -> Result<Source> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(invalid("a path must be absolute"));
    }
    if path
        .components()
        .any(|c| matches!(c, std::path::Component::ParentDir))
    {
        return Err(invalid("a path must not contain `..`"));
    }
    // `components` drops doubled and trailing slashes, so that equal paths are equal texts.
    let path: PathBuf = path.components().collect();
    if path.parent().is_none() {
        return Err(invalid("the root directory is no repository"));
    }
    Ok(Source::Local(path))
}

fn with_authority(scheme: Scheme, rest: &str) -> Result<Source> {
    if rest.contains(['?', '#']) {
        return Err(invalid(
            "it has a query or a fragment, which no repository address needs; leave it out",
        ));
    }
    let (authority, path) = rest
        .split_once('/')
        .ok_or_else(|| invalid(format!("it has no path; {FORMS}")))?;
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    if let Some(user) = user {
        if scheme != Scheme::Ssh || user.contains(':') {
            return Err(invalid(
                "it holds a user name or a password; leave them out of the address and give Ostler the credential apart, \
                 so that it is never stored in a URL",
            ));
        }
        account(user)?;
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => {
            let port = port
                .parse()
                .map_err(|_| invalid("its port is not a number from 0 to 65535"))?;
            (host, Some(port))
        }
        None => (address, None),
    };
    let default = match scheme {
        Scheme::Https => 443,
        Scheme::Http => 80,
        Scheme::Ssh => 22,
        Scheme::Git => 9418,
    };
    remote(scheme, user, host, port.filter(|p| *p != default), path, false)
}

fn scp(account_and_host: &str, path: &str) -> Result<Source> {
    let (user, host) = match account_and_host.split_once('@') {
        Some((user, host)) => (user, host),
        None => ("git", account_and_host),
    };
    account(user)?;
    if path.contains(['@', ':']) {
        return Err(invalid(
            "it seems to hold a password; leave it out and give Ostler the credential apart",
        ));
    }
    if path.starts_with('/') {
        return remote(
            Scheme::Ssh,
            Some(user),
            host,
            None,
            path.trim_start_matches('/'),
            false,
        );
    }
    remote(Scheme::Ssh, Some(user), host, None, path, true)
}

fn account(user: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if user.is_empty() || user.starts_with('-') || !user.bytes().all(plain) {
        return Err(invalid(
            "its account name is not plain; a password does not belong into an address, give Ostler the credential apart",
        ));
    }
    Ok(())
}

fn remote(
    scheme: Scheme,
    user: Option<&str>,
    host: &str,
    port: Option<u16>,
    path: &str,
    scp: bool,
) -> Result<Source> {
    let mut host = host.to_ascii_lowercase();
    if host == "www.github.com" {
        "github.com".clone_into(&mut host);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if host.is_empty() || host.starts_with(['-', '.']) || !host.bytes().all(plain) {
        return Err(invalid(format!("its host name is not valid; {FORMS}")));
    }
    let mut parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect();
    if parts
        .iter()
        .any(|p| p == "." || p == ".." || p.starts_with('-') || p.contains(['\\', '%']))
    {
        return Err(invalid(
            "a part of its path is `.`, `..`, starts with `-` or is escaped",
        ));
    }
    if WELL_KNOWN.contains(&host.as_str()) {
        // What is copied from the address bar of a browser ends with /tree/main, /pull/5 or /-/blob/main/x.
        if host != "gitlab.com" {
            parts.truncate(2);
        } else if let Some(end) = parts.iter().position(|p| p == "-") {
            parts.truncate(end);
        }
        if parts.len() < 2 {
            return Err(invalid(format!("it names no repository; {FORMS}")));
        }
        if let Some(last) = parts.last_mut()
            && let Some(stem) = last.strip_suffix(".git")
        {
            *last = stem.to_owned();
        }
    }
    // A clone's directory ends with `.git`, so that no clone can lie within another.
    let split = parts.len().saturating_sub(1);
    if parts[..split]
        .iter()
        .any(|p| p.to_ascii_lowercase().ends_with(".git"))
        || parts.last().is_none_or(|p| p.is_empty() || p == ".git")
    {
        return Err(invalid(format!("it names no repository; {FORMS}")));
    }
    Ok(Source::Remote(Remote {
        scheme,
        user: user.map(str::to_owned),
        host,
        port,
        path: parts,
        scp,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_one_github_repository() {
        for text in [
            "https://github.com/acme/demo",
            "https://github.com/acme/demo.git",
            "https://GitHub.com/acme/demo/",
            "https://www.github.com/acme/demo/tree/main/src",
            "https://github.com:443/acme/demo",
            "git@github.com:acme/demo.git",
            "ssh://git@github.com/acme/demo.git",
            "git+ssh://git@github.com/acme/demo",
            "github.com/acme/demo",
            "acme/demo",
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.key(), Path::new("github.com/acme/demo.git"), "{text}");
            assert_eq!(
                (source.owner(), source.name()),
                ("acme".into(), "demo".into()),
                "{text}"
            );
            assert_eq!(Source::parse(&source.to_string()).unwrap(), source, "{text}");
        }
    }

    #[test]
    fn other_servers_and_paths() {
        let source = Source::parse("https://git.example.org:8443/group/sub/demo.git").unwrap();
        assert_eq!(source.key(), Path::new("git.example.org+8443/group/sub/demo.git"));
        assert_eq!(source.owner(), "group/sub");
        assert_eq!(
            source.to_string(),
            "https://git.example.org:8443/group/sub/demo.git"
        );
        assert_eq!(
            source.credential_origin().unwrap(),
            "https://git.example.org:8443"
        );

        let source = Source::parse("file:///home/me/src//demo/").unwrap();
        assert_eq!(source.to_string(), "/home/me/src/demo");
        assert_eq!(source.key(), Path::new("_local/home/me/src/demo.git"));
        assert_eq!(source.credential_origin(), None);
    }

    #[test]
    fn a_secret_is_refused_and_not_repeated() {
        for text in [
            "https://user:hunter2@github.com/acme/demo",
            "https://hunter2@github.com/acme/demo",
            "ssh://git:hunter2@github.com/acme/demo",
            "user:hunter2@github.com:acme/demo",
            "https://github.com/acme/demo?token=hunter2",
        ] {
            let error = Source::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_would_run_something_or_leave_the_directory_is_refused() {
        for text in [
            "",
            "-oProxyCommand=x",
            "--upload-pack=x",
            "ext::sh -c x",
            "ext::x",
            "ssh://-oProxyCommand=x/a/b",
            "git@-x:a/b",
            "https://github.com/../..",
            "https://host/a/../b",
            "https://host/a/.git",
            "https://host/a.git/b",
            "/a/../b",
            "/",
            "./demo",
            "../demo",
            "~/demo",
            "demo",
            "a/b/c",
            "https://github.com/acme",
            "ftp://host/a/b",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips_into_a_relative_key(text in "[a-z:/@.~-]{0,24}|.{0,24}") {
            if let Ok(source) = Source::parse(&text) {
                prop_assert_eq!(&Source::parse(&source.to_string()).unwrap(), &source);
                prop_assert!(source.key().components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
