//! What the driver is made with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the driver is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// Separates installations at one engine: 1 to 40 of `a-z`, `0-9`, `-` and `_`. Part of the containers' names.
    pub instance: String,
    /// Directory of this instance and engine alone, made if missing, mode 0700. An engine that is not [remote](Self::remote)
    /// must see it under the same path.
    pub state_dir: PathBuf,
    /// The static guest program; an engine that is not remote must see it under the same path.
    pub guest: PathBuf,
    /// Name of the engine's host among those that this server places sandboxes on.
    pub host: String,
    /// The engine, as in `DOCKER_HOST`: `unix://PATH`, `ssh://[USER@]HOST[:PORT]`, or `tcp://HOST[:PORT]` and
    /// `https://HOST[:PORT]` with [`tls`](Self::tls).
    pub engine: String,
    /// Certificates for an engine at `tcp://` or `https://`.
    pub tls: Option<TlsFiles>,
    /// Whether an engine at a `tcp://` address of the loopback may be used without TLS. Never any other address.
    pub plain_loopback: bool,
    /// Whether the engine is on another machine, so that it does not see this one's directories; `None` for what the
    /// address says. To be set for a socket that is forwarded from elsewhere.
    pub remote: Option<bool>,
    /// Most processes and threads in one sandbox.
    pub max_processes: u32,
    /// Most starts at once, at least 1: more than that only make each other slow.
    pub starts: usize,
    /// Whether images that the engine does not have are pulled.
    pub pull: bool,
    /// Devices that sandboxes may ask for, and their paths on the engine's host: `kvm` and `/dev/kvm`.
    pub devices: BTreeMap<String, String>,
    /// Whether programs can be isolated from each other within a container. The guest, and it alone, then has the
    /// capabilities SYS_ADMIN, NET_ADMIN and SETPCAP until it has started what makes isolated programs, and AppArmor's
    /// profile is off, which forbids all mounts; programs have the filter of system calls instead.
    pub nested: bool,
    /// Whether a sandbox may be given the engine's own socket, and with it everything on the engine's host.
    pub engine_mounts: bool,
}

/// Files of certificates, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may sign the engine's certificate; nobody else is trusted.
    pub ca: PathBuf,
    /// This server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The files by the names that `docker` gives them in `DOCKER_CERT_PATH`.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        }
    }
}

impl DockerOptions {
    /// Options with defaults: the engine of `DOCKER_HOST` or else the usual socket, the certificates of `DOCKER_CERT_PATH`,
    /// 4096 processes, 4 starts at once, nothing pulled, no devices, no isolation within.
    pub fn new(
        instance: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        guest: impl Into<PathBuf>,
    ) -> Self {
        let certificates = std::env::var_os("DOCKER_CERT_PATH").filter(|dir| !dir.is_empty());
        Self {
            instance: instance.into(),
            state_dir: state_dir.into(),
            guest: guest.into(),
            host: "local".into(),
            engine: std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into()),
            tls: certificates.map(|dir| TlsFiles::in_dir(Path::new(&dir))),
            plain_loopback: false,
            remote: None,
            max_processes: 4096,
            starts: 4,
            pull: false,
            devices: BTreeMap::new(),
            nested: false,
            engine_mounts: false,
        }
    }

    /// The usual path of a device by the name that templates give it: `kvm`, `fuse`, `net-tun`, `vhost-net`, `vhost-vsock`,
    /// or any other directly in `/dev`. `None` for what is no name.
    pub fn device_path(name: &str) -> Option<String> {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let path = match name {
            "net-tun" => "net/tun",
            name => name,
        };
        plain.then(|| format!("/dev/{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::DockerOptions;

    #[test]
    fn devices_are_names_and_no_paths() {
        let path = |name| DockerOptions::device_path(name);
        assert_eq!(path("kvm").as_deref(), Some("/dev/kvm"));
        assert_eq!(path("net-tun").as_deref(), Some("/dev/net/tun"));
        for bad in ["", "../etc", "mem/x", "a b"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
