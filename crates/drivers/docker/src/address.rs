//! Where an engine is, as settings and `DOCKER_HOST` say it.

use crate::options::{DockerOptions, TlsFiles};
use crate::ssh::Destination;
use std::net::IpAddr;
use std::path::PathBuf;

/// Ports that engines listen on by convention.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// Where an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket of this host.
    Socket(PathBuf),
    /// A port, by TLS unless there are no certificates.
    Port {
        host: String,
        port: u16,
        tls: Option<TlsFiles>,
    },
    /// What `docker` reaches on another machine, by ssh.
    Ssh(Destination),
}

impl Address {
    /// The address in these options, or why it cannot be used and what to give instead.
    pub(crate) fn of(options: &DockerOptions) -> Result<Self, String> {
        let url = options.engine.as_str();
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("`{url}` is not the address of an engine: {CHOICES}"));
        };
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Socket(rest.into())),
            "unix" => Err(format!("`{url}` does not name a socket by its absolute path")),
            "tcp" | "https" => Self::port(options, scheme, rest),
            "ssh" => Destination::of(rest).map(Self::Ssh).ok_or_else(|| {
                format!("`{url}` does not name a machine: give `ssh://[USER@]HOST[:PORT]`, without a path")
            }),
            _ => Err(format!("`{url}` is not the address of an engine: {CHOICES}")),
        }
    }

    fn port(options: &DockerOptions, scheme: &str, rest: &str) -> Result<Self, String> {
        let url = &options.engine;
        let authority: http::uri::Authority = rest
            .trim_end_matches('/')
            .parse()
            .map_err(|e| format!("`{url}` is not the address of an engine ({e}): {CHOICES}"))?;
        if authority.as_str().contains('@') {
            return Err(format!(
                "the address of an engine holds no user: give `{scheme}://HOST:PORT`, with certificates"
            ));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let plain = options.tls.is_none();
        if plain && !(scheme == "tcp" && loopback && options.plain_loopback) {
            return Err(format!(
                "the engine at {url} would be used without TLS, and whoever can read or change that traffic is root on \
                 its host: give certificates (ca.pem, cert.pem and key.pem, by the settings or in `DOCKER_CERT_PATH`)"
            ));
        }
        let port = authority
            .port_u16()
            .unwrap_or(if plain { PLAIN_PORT } else { TLS_PORT });
        Ok(Self::Port {
            host,
            port,
            tls: options.tls.clone(),
        })
    }
}

const CHOICES: &str = "give `unix://PATH`, `ssh://USER@HOST`, or `tcp://HOST:PORT` with certificates";

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(engine: &str, change: impl FnOnce(&mut DockerOptions)) -> Result<Address, String> {
        let mut options = DockerOptions::new("i", "/state", "/guest");
        options.engine = engine.into();
        options.tls = None;
        change(&mut options);
        Address::of(&options)
    }

    fn port(host: &str, port: u16, tls: Option<&TlsFiles>) -> Address {
        Address::Port {
            host: host.into(),
            port,
            tls: tls.cloned(),
        }
    }

    #[test]
    fn sockets_and_ports_are_told_apart() {
        let files = TlsFiles::in_dir(Path::new("/certificates"));
        let tls = |o: &mut DockerOptions| o.tls = Some(files.clone());
        assert_eq!(
            of("unix:///run/x.sock", |_| ()),
            Ok(Address::Socket("/run/x.sock".into()))
        );
        assert_eq!(of("tcp://engine:99", tls), Ok(port("engine", 99, Some(&files))));
        assert_eq!(of("tcp://engine", tls), Ok(port("engine", 2376, Some(&files))));
        assert_eq!(of("https://[::1]/", tls), Ok(port("::1", 2376, Some(&files))));
        let ssh = |user: Option<&str>, host: &str, port| {
            Ok(Address::Ssh(Destination {
                user: user.map(str::to_owned),
                host: host.to_owned(),
                port,
            }))
        };
        assert_eq!(of("ssh://build1", |_| ()), ssh(None, "build1", None));
        assert_eq!(
            of("ssh://me@build1:22/", |_| ()),
            ssh(Some("me"), "build1", Some(22))
        );
        assert_eq!(of("ssh://me@[::1]:22", |_| ()), ssh(Some("me"), "::1", Some(22)));
        let plain = |o: &mut DockerOptions| o.plain_loopback = true;
        assert_eq!(of("tcp://127.0.0.1", plain), Ok(port("127.0.0.1", 2375, None)));
    }

    #[test]
    fn what_is_unsafe_or_unknown_is_refused_with_what_to_do() {
        let plain = |o: &mut DockerOptions| o.plain_loopback = true;
        for (url, say) in [
            ("tcp://127.0.0.1:1", "certificates"),
            ("https://127.0.0.1:1", "certificates"),
            ("tcp://user@127.0.0.1:1", "no user"),
            ("ssh://", "ssh://[USER@]HOST"),
            ("ssh://me@host/var/run/docker.sock", "without a path"),
            ("ssh://me@-oProxyCommand=x", "ssh://[USER@]HOST"),
            ("ssh://-x@host", "ssh://[USER@]HOST"),
            ("ssh://me:secret@host", "ssh://[USER@]HOST"),
            ("ssh://host:99999", "ssh://[USER@]HOST"),
            ("npipe:////./pipe/docker", "unix://PATH"),
            ("unix://relative", "absolute"),
            ("/var/run/docker.sock", "unix://PATH"),
            ("tcp://", "unix://PATH"),
        ] {
            let error = of(url, |_| ()).unwrap_err();
            assert!(error.contains(say), "{url}: {error}");
        }
        let error = of("tcp://192.0.2.1:2375", plain).unwrap_err();
        assert!(error.contains("without TLS"), "{error}");
        assert!(of("https://127.0.0.1:1", plain).is_err());
    }
}
