//! What a build is told about this host: where packages come from, which certificates to believe, which proxies to use.
//!
//! All of it is given to a running step and none of it is left in a layer: an image is the same wherever it is built, and
//! a password in a proxy's address stays here.

use std::io;
use std::path::{Path, PathBuf};

/// The mirror that the world uses.
const DEBIAN: &str = "http://ftp.debian.org/debian";
/// Where hosts keep the certificates that they believe.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where hosts keep Debian's own package sources.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
/// Variables that say how registries are reached.
const VARIABLES: [&str; 14] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "npm_config_proxy",
    "NPM_CONFIG_PROXY",
    "npm_config_https_proxy",
    "NPM_CONFIG_HTTPS_PROXY",
    "npm_config_noproxy",
    "NPM_CONFIG_NOPROXY",
];
/// Settings of apt about reaching its sources.
const APT_SETTINGS: [&str; 5] = [
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
];

/// Where packages of a suite come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// Files of this host.
    Files(Vec<PathBuf>),
    /// A line of `sources.list`.
    Line(String),
}

/// Where packages of `suite` come from: from `mirror` if there is one, else from where a host of the same suite has its own
/// from, else from where the world has them from.
pub(super) fn sources(mirror: Option<&str>, suite: &str) -> Sources {
    let files: Vec<PathBuf> = SOURCES
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.metadata().is_ok_and(|found| found.len() > 0))
        .collect();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    match mirror {
        None if !files.is_empty() && codename(&release) == Some(suite) => Sources::Files(files),
        _ => Sources::Line(format!("deb {} {suite} main\n", mirror.unwrap_or(DEBIAN))),
    }
}

fn codename(release: &str) -> Option<&str> {
    let line = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"'))
}

/// Settings of apt on this host that are about reaching package sources, one a line.
pub(super) fn apt_settings() -> Vec<String> {
    let Ok(dump) = std::process::Command::new("apt-config").arg("dump").output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&dump.stdout)
        .lines()
        .filter(|line| {
            APT_SETTINGS.iter().any(|name| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', ':']))
            })
        })
        .map(str::to_owned)
        .collect()
}

/// The settings of npm of this host's user, which may name a registry.
fn npm_settings() -> Vec<u8> {
    let own = std::env::var_os("NPM_CONFIG_USERCONFIG")
        .or_else(|| std::env::var_os("npm_config_userconfig"))
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".npmrc")));
    let global = ["/etc/npmrc", "/usr/etc/npmrc"].map(PathBuf::from);
    let mut text = Vec::new();
    for path in global.into_iter().chain(own) {
        text.extend(std::fs::read(path).unwrap_or_default());
        text.push(b'\n');
    }
    text
}

/// The environment of a step whose files from [`archive`] lie in `dir`.
pub(super) fn environment(dir: &str) -> Vec<String> {
    let mut env = vec![
        "DEBIAN_FRONTEND=noninteractive".to_owned(),
        "LC_ALL=C.UTF-8".to_owned(),
        format!("APT_CONFIG={dir}/apt.conf"),
        format!("NPM_CONFIG_USERCONFIG={dir}/npmrc"),
    ];
    if Path::new(CERTIFICATES).is_file() {
        // Over what the host's own settings say, whose paths mean nothing inside.
        env.push(format!("NPM_CONFIG_CAFILE={dir}/ca.crt"));
        env.push(format!("npm_config_cafile={dir}/ca.crt"));
        env.push(format!("NODE_EXTRA_CA_CERTS={dir}/ca.crt"));
    }
    for name in VARIABLES {
        if let Ok(value) = std::env::var(name) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

/// The files that a step needs, as a tar to be unpacked into `dir`. Without a suite the image's own package sources stay.
pub(super) fn archive(dir: &str, mirror: Option<&str>, suite: Option<&str>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut apt = vec![
        "Acquire::Languages \"none\";".to_owned(),
        "Acquire::Retries \"3\";".to_owned(),
    ];
    if let Ok(certificates) = std::fs::read(CERTIFICATES) {
        add(&mut tar, "ca.crt", &certificates, 0o644)?;
        apt.push(format!("Acquire::https::CaInfo \"{dir}/ca.crt\";"));
    }
    if let Some(suite) = suite {
        apt.push("Dir::Etc::sourcelist \"/dev/null\";".to_owned());
        apt.push(format!("Dir::Etc::sourceparts \"{dir}/sources\";"));
        let texts = match sources(mirror, suite) {
            Sources::Line(line) => vec![("mirror.list".to_owned(), line)],
            Sources::Files(files) => {
                let name = |path: &Path| {
                    path.file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned()
                };
                let read = |path: &PathBuf| Ok((name(path), std::fs::read_to_string(path)?));
                files.iter().map(read).collect::<io::Result<_>>()?
            }
        };
        let mut keys = Vec::new();
        for (name, text) in texts {
            let text = with_keys(&text, dir, &mut keys);
            add(&mut tar, &format!("sources/{name}"), text.as_bytes(), 0o644)?;
        }
        for (name, path) in keys {
            add(&mut tar, &name, &std::fs::read(path)?, 0o644)?;
        }
    }
    // After ours, so that the host's word counts where it has one.
    apt.extend(apt_settings());
    apt.push(String::new());
    add(&mut tar, "apt.conf", apt.join("\n").as_bytes(), 0o644)?;
    // It may hold a token.
    add(&mut tar, "npmrc", &npm_settings(), 0o600)?;
    tar.into_inner()
}

/// The text of package sources with the keys that it names by path moved into `dir`; the image may not have them.
fn with_keys(text: &str, dir: &str, keys: &mut Vec<(String, PathBuf)>) -> String {
    let mut moved = text.to_owned();
    for word in text.split(|c: char| c.is_whitespace() || "=[],".contains(c)) {
        let is_key = [".gpg", ".asc", ".pgp"]
            .iter()
            .any(|ending| word.ends_with(ending));
        if !word.starts_with('/') || !is_key || !Path::new(word).is_file() {
            continue;
        }
        if keys.iter().any(|(_, path)| path == Path::new(word)) {
            continue;
        }
        let extension = &word[word.len() - 3..];
        let name = format!("keys/{}.{extension}", keys.len());
        moved = moved.replace(word, &format!("{dir}/{name}"));
        keys.push((name, PathBuf::from(word)));
    }
    moved
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    tar.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_goes_first_and_another_suite_is_not_taken_from_this_host() {
        let line = |mirror, suite| match sources(mirror, suite) {
            Sources::Line(line) => line,
            Sources::Files(files) => panic!("{files:?}"),
        };
        assert_eq!(
            line(Some("http://mirror"), "bookworm"),
            "deb http://mirror bookworm main\n"
        );
        assert!(line(None, "nosuchsuite").contains(DEBIAN));
        assert_eq!(codename("NAME=x\nVERSION_CODENAME=\"trixie\"\n"), Some("trixie"));
    }

    #[test]
    fn keys_come_along() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("one.gpg");
        std::fs::write(&key, "key").unwrap();
        let key = key.display();
        let text = format!(
            "deb [signed-by={key} arch=amd64] http://a b c\nSigned-By: {key}\nSigned-By: /no/such.gpg\n"
        );
        let mut keys = Vec::new();
        let moved = with_keys(&text, "/d", &mut keys);
        assert_eq!(
            moved,
            "deb [signed-by=/d/keys/0.gpg arch=amd64] http://a b c\nSigned-By: /d/keys/0.gpg\nSigned-By: /no/such.gpg\n"
        );
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn the_archive_holds_what_the_environment_names() {
        let bytes = archive("/d", Some("http://mirror"), Some("bookworm")).unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        for name in ["apt.conf", "npmrc", "sources/mirror.list"] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
        assert!(environment("/d").contains(&"APT_CONFIG=/d/apt.conf".to_owned()));
    }
}
