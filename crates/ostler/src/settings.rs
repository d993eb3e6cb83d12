//! Settings: defaults, over them one TOML file, over that the environment, over that the command line.
//!
//! A variable `OSTLER_<SECTION>__<KEY>` stands for `key` in `[section]`; `OSTLER_<KEY>` for a key at the top. Its value
//! is read as TOML where that is possible (`true`, `5`, `["a"]`), otherwise as text.

mod drivers;
mod egress;
mod gateway;
mod print;

pub(crate) use drivers::{
    DockerSettings, DriverSettings, Enabled, EngineSettings, FirecrackerSettings, ProcessSettings,
    QemuSettings, Separation,
};
pub(crate) use egress::EgressSettings;
pub(crate) use gateway::GatewayConfig;

use anyhow::{Context, bail};
use ostler_agents::KindSettings;
use ostler_artifacts::ArtifactSettings;
use ostler_control::{ExecutorSettings, ImageSettings, SandboxSettings, SchedulerSettings, WorkSettings};
use ostler_server::ServerSettings;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Variables with a meaning of their own, which are no settings.
const NOT_SETTINGS: [&str; 7] = [
    "OSTLER_SERVER",
    "OSTLER_TOKEN",
    "OSTLER_TENANT",
    "OSTLER_CREDENTIAL_KEY",
    "OSTLER_DATA",
    "OSTLER_CONFIG",
    "OSTLER_LOG",
];

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Address to listen on.
    pub(crate) listen: SocketAddr,
    /// `sqlite:PATH` or `postgres://user:password@host/database`; a file in the data directory when absent.
    pub(crate) database: Option<String>,
    /// Everybody is administrator; only on loopback.
    pub(crate) dev: bool,
    /// Logs as JSON lines.
    pub(crate) log_json: bool,
    /// Bytes of output kept of one run.
    pub(crate) log_max_bytes: u64,
    /// The HTTP interface.
    pub(crate) server: ServerSettings,
    /// Tasks.
    pub(crate) work: WorkSettings,
    /// Agent kinds.
    pub(crate) agents: KindSettings,
    /// Runs.
    pub(crate) executor: ExecutorSettings,
    /// In which order runs are taken up, and how full machines are made.
    pub(crate) scheduler: SchedulerSettings,
    /// How sandboxes are looked after.
    pub(crate) sandboxes: SandboxSettings,
    /// Drivers.
    pub(crate) drivers: DriverSettings,
    /// What sandboxes reach of the outside.
    pub(crate) egress: EgressSettings,
    /// Images of sandboxes.
    pub(crate) images: ImageSettings,
    /// Files that tests leave.
    pub(crate) artifacts: ArtifactSettings,
    /// Model APIs.
    pub(crate) gateway: GatewayConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            database: None,
            dev: false,
            log_json: false,
            log_max_bytes: 10 << 30,
            server: ServerSettings::default(),
            work: WorkSettings::default(),
            agents: KindSettings::default(),
            executor: ExecutorSettings::default(),
            scheduler: SchedulerSettings::default(),
            sandboxes: SandboxSettings::default(),
            drivers: DriverSettings::default(),
            egress: EgressSettings::default(),
            images: ImageSettings::default(),
            artifacts: ArtifactSettings::default(),
            gateway: GatewayConfig::default(),
        }
    }
}

impl Settings {
    /// Reads the file (a missing one only if it was named) and the variables.
    pub(crate) fn load(
        file: Option<&Path>,
        data: &Path,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let path = file.map_or_else(|| data.join("config.toml"), Path::to_owned);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the settings file {}", path.display()));
            }
        };
        // Read once by itself, so that an error names its line.
        toml::from_str::<Self>(&text)
            .with_context(|| format!("the settings file {} is not right", path.display()))?;
        let mut table: Table = text
            .parse()
            .with_context(|| format!("{} is not TOML", path.display()))?;
        for (name, value) in variables {
            let Some(key) = name.strip_prefix("OSTLER_") else {
                continue;
            };
            if NOT_SETTINGS.contains(&name.as_str()) || key.starts_with("TEST_") {
                continue;
            }
            set(&mut table, &key.to_ascii_lowercase(), &value)
                .with_context(|| format!("the environment variable {name} is not right"))?;
        }
        Table::try_into(table).context("the settings in OSTLER_ environment variables are not right")
    }

    /// Without secrets.
    pub(crate) fn redacted(&self) -> Self {
        let mut shown = self.clone();
        shown.database = shown.database.map(|url| redact_url(&url));
        shown.gateway.redact();
        shown
    }

    /// As TOML with a comment on every setting, without secrets.
    pub(crate) fn documented(&self) -> anyhow::Result<String> {
        Ok(print::documented(Table::try_from(self.redacted())?))
    }
}

fn set(table: &mut Table, key: &str, text: &str) -> anyhow::Result<()> {
    if let Some((section, rest)) = key.split_once("__") {
        let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Boolean(_) | Value::String(_) = inner {
            // The short form of a driver's section.
            *inner = Value::Table(Table::from_iter([("enabled".to_owned(), inner.clone())]));
        }
        let Some(inner) = inner.as_table_mut() else {
            bail!("{section} is a value and not a section")
        };
        return set(inner, rest, text);
    }
    let parsed = format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    match table.get_mut(key) {
        Some(Value::Table(section)) if !value.is_table() => section.insert("enabled".to_owned(), value),
        _ => table.insert(key.to_owned(), value),
    };
    Ok(())
}

fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            format!(
                "{scheme}://{}:***@{host}",
                user.split(':').next().unwrap_or_default()
            )
        }
        _ => url.to_owned(),
    }
}

/// The data directory: as given, else as the environment says, else in the user's own place.
pub(crate) fn data_directory(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(data) = given {
        return Ok(data);
    }
    let base = match std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => std::env::home_dir()
            .context("no home directory is known; name one with --data")?
            .join(".local/share"),
    };
    Ok(base.join("ostler"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_gateway::{Credential, Secret, Upstream};

    fn load(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Settings::load(None, dir.path(), variables)
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let settings = load(
            "dev = true\n[work]\nworker_attempts = 3\nsync_seconds = 9\n",
            &[
                ("OSTLER_WORK__WORKER_ATTEMPTS", "4"),
                ("OSTLER_LISTEN", "127.0.0.1:9"),
                ("HOME", "/x"),
            ],
        )
        .unwrap();
        assert!(settings.dev);
        assert_eq!(
            (settings.work.worker_attempts, settings.work.sync_seconds),
            (4, 9)
        );
        assert_eq!(settings.listen.port(), 9);
    }

    #[test]
    fn a_driver_is_chosen_with_one_word_or_a_section() {
        let enabled = |text: &str, variables: &[(&str, &str)]| {
            load(text, variables).map(|s| (s.drivers.process, s.drivers.docker.enabled))
        };
        let process = |enabled, separation| ProcessSettings {
            enabled,
            separation,
            ..ProcessSettings::default()
        };
        let (namespaces, plain) = (Separation::Namespaces, Separation::Plain);
        assert_eq!(
            enabled("", &[]).unwrap(),
            (process(Enabled::Auto, namespaces), Enabled::Auto)
        );
        assert_eq!(
            enabled("[drivers]\nprocess = false\ndocker = \"auto\"", &[]).unwrap(),
            (process(Enabled::No, namespaces), Enabled::Auto)
        );
        let section = "[drivers.process]\nseparation = \"plain\"";
        let variables = [
            ("OSTLER_DRIVERS__PROCESS", "true"),
            ("OSTLER_DRIVERS__DOCKER", "false"),
        ];
        assert_eq!(
            enabled(section, &variables).unwrap(),
            (process(Enabled::Yes, plain), Enabled::No)
        );
        let variables = [("OSTLER_DRIVERS__PROCESS__SEPARATION", "plain")];
        assert_eq!(
            enabled("[drivers]\nprocess = true", &variables).unwrap().0,
            process(Enabled::Yes, plain)
        );
        for wrong in ["process = \"maybe\"", "docker = 3", "docker.imago = \"x\""] {
            let error = format!("{:#}", enabled(&format!("[drivers]\n{wrong}"), &[]).unwrap_err());
            assert!(error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn keys_come_from_the_settings_or_else_from_the_environment() {
        let settings = load("", &[("OSTLER_GATEWAY__OPENAI__API_KEY", "set")]).unwrap();
        let gateway = settings.gateway.resolve(|name| {
            (name == "ANTHROPIC_API_KEY" || name == "OPENAI_API_KEY").then(|| "env".to_owned())
        });
        let key = |upstream| gateway.upstreams[&upstream].credential.clone();
        assert_eq!(
            key(Upstream::OpenAi),
            Some(Credential::ApiKey(Secret::new("set")))
        );
        assert_eq!(
            key(Upstream::Anthropic),
            Some(Credential::ApiKey(Secret::new("env")))
        );
        assert_eq!(key(Upstream::Gemini), None);
    }

    #[test]
    fn a_mistake_is_named() {
        let error = format!("{:#}", load("[work]\nworker_atempts = 3\n", &[]).unwrap_err());
        assert!(
            error.contains("worker_atempts") && error.contains("line 2"),
            "{error}"
        );
        let error = format!("{:#}", load("", &[("OSTLER_WRK__X", "1")]).unwrap_err());
        assert!(error.contains("wrk"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut settings = Settings {
            database: Some("postgres://me:planted@db:5432/x".into()),
            ..Settings::default()
        };
        settings.gateway.anthropic.api_key = Some("planted".into());
        let shown = settings.documented().unwrap();
        assert!(
            shown.contains("postgres://me:***@db:5432/x") && !shown.contains("planted"),
            "{shown}"
        );
        assert_eq!(toml::from_str::<Settings>(&shown).unwrap(), settings.redacted());
    }
}
