//! What a worker's configuration means for its sandbox: variables and mounts.
//!
//! A worker is configured by what it is (`agent_kind`, how it signs in, which capabilities it needs), not by paths. What of
//! the host that opens up is the operator's decision: nothing here is given without a policy that allows it.

use ostler_domain::Mount;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Variable with the worker's id.
pub const WORKER_ID: &str = "OSTLER_WORKER_ID";
/// Variable with the worker's type.
pub const WORKER_TYPE: &str = "OSTLER_WORKER_TYPE";
/// Variable with the kind of its agent.
pub const AGENT_KIND: &str = "OSTLER_AGENT_KIND";
/// Variable with the server's address as seen in the sandbox.
pub const SERVER: &str = "OSTLER_SERVER";
/// Variable with the way in which the agent signs in: `host_session`, `api_key` or `gateway`.
pub const AUTH: &str = "OSTLER_AUTH";
/// Variable with the address of the gateway to the model, for the ways `api_key` and `gateway`.
pub const GATEWAY: &str = "OSTLER_GATEWAY";
/// The capability that gives a worker the engine of its host.
pub const DOCKER: &str = "DOCKER";

/// Where programs look for an engine.
const ENGINE_INSIDE: &str = "/var/run/docker.sock";
/// Longest value of any field, bytes.
const LONGEST: usize = 512;

/// Where kinds of agents keep their sign-in, below the home directory.
const LOGINS: &[(&str, &str)] = &[
    ("claude", ".claude"),
    ("codex", ".codex"),
    ("droid", ".factory"),
    ("gemini", ".gemini"),
    ("opencode", ".local/share/opencode"),
];

/// How an agent signs in at its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerAuth {
    /// As the user of the host who has signed in there.
    HostSession,
    /// By a key that the server has. It stays there: the gateway adds it.
    ApiKey {
        /// The gateway's address as seen in the sandbox.
        gateway: String,
    },
    /// By a gateway that needs no key of ours.
    Gateway {
        /// Its address as seen in the sandbox.
        gateway: String,
    },
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Its id.
    pub worker_id: String,
    /// Its type, such as `planner`.
    pub worker_type: String,
    /// The kind of its agent, such as `claude`.
    pub agent_kind: String,
    /// The server's address as seen in the sandbox, without a password.
    pub server_url: String,
    /// How the agent signs in.
    pub auth: WorkerAuth,
    /// What it needs, such as `GIT` or [`DOCKER`], in any case. Those that are only programs are a matter of the image.
    pub capabilities: BTreeSet<String>,
    /// The home directory of its programs in the sandbox, absolute.
    pub home: String,
}

/// What the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPolicy {
    /// Whether workers may be given the engine of the host, and with it everything on the host.
    pub allow_engine_socket: bool,
    /// Whether workers may be given the sign-in of the host's user, to read.
    pub allow_host_session: bool,
    /// Whether they may also change it, as programs must that renew a sign-in. They can then also leave there what the
    /// host's user will execute.
    pub writable_host_session: bool,
    /// The engine's socket on the host.
    pub engine_socket: PathBuf,
    /// Home directory of the host's user.
    pub home: PathBuf,
}

/// What a worker's sandbox gets beside what its template says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerSetup {
    /// Variables. No secrets.
    pub env: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
}

/// Why a worker cannot be had, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker cannot be had: {}", .0.join("; "))]
pub struct WorkerRefused(pub Vec<String>);

impl WorkerPolicy {
    /// Nothing of the host is given.
    pub fn closed(home: impl Into<PathBuf>) -> Self {
        Self {
            allow_engine_socket: false,
            allow_host_session: false,
            writable_host_session: false,
            engine_socket: ENGINE_INSIDE.into(),
            home: home.into(),
        }
    }
}

impl WorkerConfig {
    /// What its sandbox gets. Every reason for a refusal is told at once.
    pub fn setup(&self, policy: &WorkerPolicy) -> Result<WorkerSetup, WorkerRefused> {
        let mut reasons = Vec::new();
        let mut setup = WorkerSetup::default();
        let mut set = |name: &'static str, value: &str| match bad(value) {
            Some(why) => reasons.push(format!("{name} {why}")),
            None => {
                setup.env.insert(name.into(), value.into());
            }
        };
        set(WORKER_ID, &self.worker_id);
        set(WORKER_TYPE, &self.worker_type);
        set(AGENT_KIND, &self.agent_kind);
        set(SERVER, &self.server_url);
        set(AUTH, self.auth.name());
        match &self.auth {
            WorkerAuth::ApiKey { gateway } | WorkerAuth::Gateway { gateway } => set(GATEWAY, gateway),
            WorkerAuth::HostSession => {}
        }
        for (name, url) in [(SERVER, Some(&self.server_url)), (GATEWAY, self.auth.gateway())] {
            if url.is_some_and(|url| has_password(url)) {
                setup.env.remove(name);
                reasons.push(format!(
                    "{name} holds a user or password, which would be readable in the sandbox"
                ));
            }
        }
        if self.auth == WorkerAuth::HostSession {
            match self.login(policy) {
                Ok(mount) => setup.mounts.push(mount),
                Err(why) => reasons.push(why),
            }
        }
        if self
            .capabilities
            .iter()
            .any(|name| name.eq_ignore_ascii_case(DOCKER))
        {
            match engine(policy) {
                Ok(mount) => {
                    setup
                        .env
                        .insert("DOCKER_HOST".into(), format!("unix://{ENGINE_INSIDE}"));
                    setup.mounts.push(mount);
                }
                Err(why) => reasons.push(why),
            }
        }
        if reasons.is_empty() {
            Ok(setup)
        } else {
            Err(WorkerRefused(reasons))
        }
    }

    fn login(&self, policy: &WorkerPolicy) -> Result<Mount, String> {
        if !policy.allow_host_session {
            return Err(
                "the sign-in of the host's user is wanted, and no policy allows that: use a key of the server, which \
                 stays outside of the sandbox"
                    .into(),
            );
        }
        let Some((_, dir)) = LOGINS.iter().find(|(kind, _)| *kind == self.agent_kind) else {
            let known: Vec<&str> = LOGINS.iter().map(|(kind, _)| *kind).collect();
            return Err(format!(
                "it is not known where `{}` keeps its sign-in: it is for {}",
                self.agent_kind,
                known.join(", ")
            ));
        };
        let target = Path::new(&self.home).join(dir);
        if !is_plain(&target) || self.home == "/" {
            return Err(format!("`{}` is no home directory in a sandbox", self.home));
        }
        Ok(Mount {
            source: plain(&policy.home.join(dir))?,
            target: target.display().to_string(),
            writable: policy.writable_host_session,
        })
    }
}

impl WorkerAuth {
    /// The value of [`AUTH`].
    pub const fn name(&self) -> &'static str {
        match self {
            Self::HostSession => "host_session",
            Self::ApiKey { .. } => "api_key",
            Self::Gateway { .. } => "gateway",
        }
    }

    const fn gateway(&self) -> Option<&String> {
        match self {
            Self::HostSession => None,
            Self::ApiKey { gateway } | Self::Gateway { gateway } => Some(gateway),
        }
    }
}

fn engine(policy: &WorkerPolicy) -> Result<Mount, String> {
    if !policy.allow_engine_socket {
        return Err(format!(
            "the capability {DOCKER} gives whoever has it everything on the host, and no policy allows that: leave it out, \
             or use a virtual machine with an engine of its own"
        ));
    }
    Ok(Mount {
        source: plain(&policy.engine_socket)?,
        target: ENGINE_INSIDE.into(),
        writable: true,
    })
}

fn plain(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some(text) if is_plain(path) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{}` is not an absolute path without `..`",
            path.display()
        )),
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|c| matches!(c, Component::ParentDir))
}

fn bad(value: &str) -> Option<String> {
    if value.is_empty() {
        Some("is required and empty".into())
    } else if value.len() > LONGEST {
        Some(format!("is longer than {LONGEST} bytes"))
    } else if value.chars().any(char::is_control) {
        Some("holds control characters".into())
    } else {
        None
    }
}

fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(auth: WorkerAuth) -> WorkerConfig {
        WorkerConfig {
            worker_id: "w1".into(),
            worker_type: "planner".into(),
            agent_kind: "claude".into(),
            server_url: "http://127.0.0.1:7070".into(),
            auth,
            capabilities: BTreeSet::from(["GIT".to_owned()]),
            home: "/root".into(),
        }
    }

    fn gateway() -> WorkerAuth {
        WorkerAuth::Gateway {
            gateway: "http://127.0.0.1:9".into(),
        }
    }

    fn open() -> WorkerPolicy {
        WorkerPolicy {
            allow_engine_socket: true,
            allow_host_session: true,
            ..WorkerPolicy::closed("/home/me")
        }
    }

    fn reasons(config: &WorkerConfig, policy: &WorkerPolicy) -> Vec<String> {
        config.setup(policy).unwrap_err().0
    }

    #[test]
    fn the_required_variables_are_there_and_no_key() {
        let key = WorkerAuth::ApiKey {
            gateway: "http://127.0.0.1:9".into(),
        };
        for (auth, name) in [(gateway(), "gateway"), (key, "api_key")] {
            let setup = config(auth).setup(&WorkerPolicy::closed("/home/me")).unwrap();
            let expected = [
                (AGENT_KIND, "claude"),
                (AUTH, name),
                (GATEWAY, "http://127.0.0.1:9"),
                (SERVER, "http://127.0.0.1:7070"),
                (WORKER_ID, "w1"),
                (WORKER_TYPE, "planner"),
            ];
            let env: Vec<_> = setup.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(env, expected);
            assert!(setup.mounts.is_empty());
        }
    }

    #[test]
    fn the_session_of_the_host_is_seen_where_the_kind_looks_for_it() {
        let setup = config(WorkerAuth::HostSession).setup(&open()).unwrap();
        assert_eq!(
            setup.mounts,
            [Mount {
                source: "/home/me/.claude".into(),
                target: "/root/.claude".into(),
                writable: false,
            }]
        );
        assert!(!setup.env.contains_key(GATEWAY));
        let mut droid = config(WorkerAuth::HostSession);
        droid.agent_kind = "droid".into();
        droid.home = "/home/worker".into();
        let writable = WorkerPolicy {
            writable_host_session: true,
            ..open()
        };
        let mount = &droid.setup(&writable).unwrap().mounts[0];
        assert_eq!(mount.target, "/home/worker/.factory");
        assert!(mount.writable);
    }

    #[test]
    fn the_host_is_closed_without_a_policy() {
        let mut worker = config(WorkerAuth::HostSession);
        worker.capabilities.insert("docker".into());
        let why = reasons(&worker, &WorkerPolicy::closed("/home/me"));
        assert_eq!(why.len(), 2, "{why:?}");
        assert!(
            why[0].contains("sign-in") && why[1].contains("everything on the host"),
            "{why:?}"
        );
        // One permission is not the other.
        let only_session = WorkerPolicy {
            allow_engine_socket: false,
            ..open()
        };
        assert_eq!(reasons(&worker, &only_session).len(), 1);
    }

    #[test]
    fn the_engine_is_where_programs_look_for_it() {
        let mut worker = config(gateway());
        worker.capabilities.insert("Docker".into());
        let policy = WorkerPolicy {
            engine_socket: "/run/user/1000/docker.sock".into(),
            ..open()
        };
        let setup = worker.setup(&policy).unwrap();
        assert_eq!(setup.env["DOCKER_HOST"], "unix:///var/run/docker.sock");
        assert_eq!(setup.mounts[0].source, "/run/user/1000/docker.sock");
        assert_eq!(setup.mounts[0].target, ENGINE_INSIDE);
    }

    #[test]
    fn bad_fields_are_named_all_at_once() {
        let mut worker = config(gateway());
        worker.worker_id = String::new();
        worker.worker_type = "a\nb".into();
        worker.agent_kind = "x".repeat(LONGEST + 1);
        worker.server_url = "https://me:secret@host/".into();
        let why = reasons(&worker, &open());
        assert_eq!(why.len(), 4, "{why:?}");
        for (n, name) in [WORKER_ID, WORKER_TYPE, AGENT_KIND, SERVER]
            .into_iter()
            .enumerate()
        {
            assert!(why[n].starts_with(name), "{why:?}");
        }
        assert!(!why.join(" ").contains("secret"), "{why:?}");
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for home in ["relative", "/root/..", "/", ""] {
            let mut worker = config(WorkerAuth::HostSession);
            worker.home = home.into();
            assert_eq!(reasons(&worker, &open()).len(), 1, "{home}");
        }
        let mut unknown = config(WorkerAuth::HostSession);
        unknown.agent_kind = "other".into();
        assert!(reasons(&unknown, &open())[0].contains("claude, codex"));
        let relative = WorkerPolicy {
            home: "me".into(),
            ..open()
        };
        assert_eq!(reasons(&config(WorkerAuth::HostSession), &relative).len(), 1);
    }
}
