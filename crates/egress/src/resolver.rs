//! Questions to the real name servers. Whether a question may be asked was decided before.

use crate::Error;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Addresses of a name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    /// How long they may be kept.
    pub(crate) ttl: Duration,
}

#[derive(Debug)]
pub(crate) enum LookupError {
    /// The name does not exist.
    NoSuchName,
    /// No usable answer.
    Failed(String),
}

#[derive(Clone)]
pub(crate) struct Resolver(TokioResolver);

impl Resolver {
    /// Asks `servers`, or those of this machine when there are none.
    pub(crate) fn new(servers: &[SocketAddr]) -> Result<Self, Error> {
        let failed = |error: NetError| Error::NameServers {
            reason: error.to_string(),
        };
        let servers = if servers.is_empty() {
            // Its search list and options are for programs of this machine, not for sandboxes.
            let (config, _) = system_conf::read_system_conf().map_err(failed)?;
            config.name_servers().to_vec()
        } else {
            let connections = |server: &SocketAddr| {
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                })
            };
            servers
                .iter()
                .map(|server| NameServerConfig::new(server.ip(), true, connections(server).to_vec()))
                .collect()
        };
        if servers.is_empty() {
            return Err(Error::NameServers {
                reason: "none is configured".to_owned(),
            });
        }
        let mut options = ResolverOpts::default();
        options.timeout = Duration::from_secs(3);
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(Duration::from_secs(300));
        options.negative_max_ttl = Some(Duration::from_secs(30));
        options.cache_size = 4096;
        options.max_active_requests = 256;
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map(Self)
            .map_err(failed)
    }

    /// The IPv6 or IPv4 addresses of a normalised name; none if it has only others.
    pub(crate) async fn lookup(&self, name: &str, v6: bool) -> Result<Answer, LookupError> {
        let failed = |reason: String| LookupError::Failed(reason);
        let mut name = Name::from_ascii(name).map_err(|e| failed(e.to_string()))?;
        // With the dot at the end: no search list.
        name.set_fqdn(true);
        let kind = if v6 { RecordType::AAAA } else { RecordType::A };
        match self.0.lookup(name, kind).await {
            Ok(lookup) => Ok(Answer {
                addresses: lookup
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .filter(|address| address.is_ipv6() == v6)
                    .collect(),
                ttl: lookup.valid_until().saturating_duration_since(Instant::now()),
            }),
            Err(error) if error.is_nx_domain() => Err(LookupError::NoSuchName),
            Err(error) if error.is_no_records_found() => Ok(Answer::default()),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}
