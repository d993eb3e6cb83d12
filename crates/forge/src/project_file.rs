//! `ostler.toml`, the file in a repository that tells Ostler how its work is checked.
//!
//! ```toml
//! [[check]]
//! name = "tests"
//! command = "cargo test"      # run by `sh -c` in the repository
//! timeout = "10m"             # ms, s, m or h; 10 m if left out
//! env = { RUST_BACKTRACE = "1" }
//!
//! [tests]
//! plan = "tests/plan.toml"    # a plan of tests in the repository, executed after the checks
//!
//! [pool]
//! name = "rust"               # where checks run, as the default branch says it; the default pool if left out
//!
//! [requirements]
//! cpus = 2
//! memory_mb = 4096
//!
//! [agent]
//! kind = "claude"
//! ```
//!
//! A field that is not known is an error: a misspelt `timeout` must not silently become "no limit".

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Name of the file, in the top directory of a repository.
pub const FILE_NAME: &str = "ostler.toml";
/// How long a check may take that does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const MAX_CHECKS: usize = 50;

/// What is wrong with a project file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map(|l| format!("line {l}: ")).unwrap_or_default())]
pub struct ProjectFileError {
    /// Line, from 1, where it can be told.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// The content of a project file. The default is that of a repository without one: no checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectFile {
    /// Checks in their order.
    pub checks: Vec<Check>,
    /// A file of the repository with a plan of tests that must pass, too.
    pub tests: Option<String>,
    /// Pool whose sandboxes run the checks.
    pub pool: Option<String>,
    /// What a sandbox must have to run the checks.
    pub requirements: CheckRequirements,
    /// Agent kind for tasks that name none.
    pub agent_kind: Option<String>,
}

/// One check of the work, before its merge request opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Name, unique in the file.
    pub name: String,
    /// What `sh -c` runs; exit code 0 is success.
    pub command: String,
    /// When it is stopped.
    pub timeout: Duration,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
}

/// What a sandbox must have; `None` is "whatever the pool gives".
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequirements {
    /// Container image.
    pub image: Option<String>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// Disk in MiB.
    pub disk_mb: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    check: Vec<toml::Spanned<CheckForm>>,
    tests: Option<toml::Spanned<TestsForm>>,
    pool: Option<PoolForm>,
    requirements: Option<CheckRequirements>,
    agent: Option<AgentForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckForm {
    name: String,
    command: String,
    timeout: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestsForm {
    plan: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolForm {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentForm {
    kind: Option<String>,
}

impl ProjectFile {
    /// Reads the text of a project file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line; for an unknown field the one that was probably meant.
    pub fn parse(text: &str) -> Result<Self, ProjectFileError> {
        let line_of = |at: usize| text.get(..at).map(|before| before.matches('\n').count() + 1);
        let form: FileForm = toml::from_str(text).map_err(|error| ProjectFileError {
            line: error.span().and_then(|span| line_of(span.start)),
            message: with_suggestion(error.message()),
        })?;
        if form.check.len() > MAX_CHECKS {
            return Err(ProjectFileError {
                line: None,
                message: format!(
                    "it has {} checks; at most {MAX_CHECKS} are allowed",
                    form.check.len()
                ),
            });
        }
        let mut names = BTreeSet::new();
        let mut checks = Vec::new();
        for spanned in form.check {
            let line = line_of(spanned.span().start);
            let check = check(spanned.into_inner()).map_err(|message| ProjectFileError { line, message })?;
            if !names.insert(check.name.clone()) {
                return Err(ProjectFileError {
                    line,
                    message: format!(
                        "there are two checks named `{}`; give one another name",
                        check.name
                    ),
                });
            }
            checks.push(check);
        }
        let tests = match form.tests {
            None => None,
            Some(spanned) => {
                let line = line_of(spanned.span().start);
                let plan = spanned.into_inner().plan;
                Some(plan_file(plan).map_err(|message| ProjectFileError { line, message })?)
            }
        };
        Ok(Self {
            checks,
            tests,
            pool: form.pool.and_then(|pool| pool.name),
            requirements: form.requirements.unwrap_or_default(),
            agent_kind: form.agent.and_then(|agent| agent.kind),
        })
    }

    /// Reads the bytes of [`crate::Repository::file_at`]; no file means no checks.
    ///
    /// # Errors
    /// As [`ProjectFile::parse`]; bytes that are not UTF-8.
    pub fn from_bytes(bytes: Option<&[u8]>) -> Result<Self, ProjectFileError> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let text = std::str::from_utf8(bytes).map_err(|error| ProjectFileError {
            line: Some(bytes[..error.valid_up_to()].split(|b| *b == b'\n').count()),
            message: "it is not UTF-8 text".to_owned(),
        })?;
        Self::parse(text)
    }
}

fn plan_file(path: String) -> Result<String, String> {
    let odd = |part: &str| matches!(part, "" | "." | "..");
    if path.split('/').any(odd) || path.contains(char::is_control) {
        return Err(format!(
            "`{path}` is not the path of a file in the repository, such as `tests/plan.toml`"
        ));
    }
    Ok(path)
}

fn check(form: CheckForm) -> Result<Check, String> {
    let name = form.name.trim().to_owned();
    if name.is_empty() || name.len() > 100 || name.contains(char::is_control) {
        return Err("a check needs a `name` of 1 to 100 printable characters".to_owned());
    }
    if form.command.trim().is_empty() || form.command.contains('\0') {
        return Err(format!("check `{name}` has an empty `command`"));
    }
    for key in form.env.keys() {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(format!(
                "check `{name}`: `{key}` cannot be the name of an environment variable"
            ));
        }
    }
    let timeout = match &form.timeout {
        None => DEFAULT_TIMEOUT,
        Some(text) => duration(text)
            .filter(|d| !d.is_zero() && *d <= MAX_TIMEOUT)
            .ok_or_else(|| {
                format!("check `{name}`: timeout `{text}` is not a time such as \"90s\", \"10m\" or \"2h\", up to 24h")
            })?,
    };
    Ok(Check {
        name,
        command: form.command,
        timeout,
        env: form.env,
    })
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// Adds the known name that is nearest, where the parser lists what it knows.
fn with_suggestion(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (names.next(), message.starts_with("unknown field")) else {
        return message.to_owned();
    };
    let nearest = names
        .map(|known| (strsim::levenshtein(unknown, known), known))
        .min();
    match nearest {
        Some((far, known)) if far <= known.len().max(unknown.len()) / 2 => {
            format!("{message}; did you mean `{known}`?")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_whole_file() {
        let file = ProjectFile::parse(
            "[[check]]\nname = \"t\"\ncommand = \"make test\"\ntimeout = \"90s\"\nenv = { A = \"1\" }\n\
             [[check]]\nname = \"lint\"\ncommand = \"make lint\"\n\
             [tests]\nplan = \"tests/plan.yaml\"\n[pool]\nname = \"rust\"\n[requirements]\ncpus = 2\n[agent]\nkind = \"claude\"\n",
        )
        .unwrap();
        assert_eq!(file.checks[0].timeout, Duration::from_secs(90));
        assert_eq!(file.checks[0].env["A"], "1");
        assert_eq!(file.checks[1].timeout, DEFAULT_TIMEOUT);
        assert_eq!(
            (file.pool.as_deref(), file.requirements.cpus),
            (Some("rust"), Some(2))
        );
        assert_eq!(file.agent_kind.as_deref(), Some("claude"));
        assert_eq!(file.tests.as_deref(), Some("tests/plan.yaml"));
        assert_eq!(ProjectFile::from_bytes(None).unwrap(), ProjectFile::default());
    }

    #[test]
    fn errors_name_line_and_remedy() {
        let error = |text: &str| ProjectFile::parse(text).unwrap_err().to_string();
        let unknown = error("[[check]]\nname = \"t\"\ncomand = \"x\"\n");
        assert!(
            unknown.starts_with("line 3: ") && unknown.ends_with("did you mean `command`?"),
            "{unknown}"
        );
        let twice = error("[[check]]\nname='t'\ncommand='x'\n[[check]]\nname='t'\ncommand='x'\n");
        assert!(
            twice.starts_with("line 4: ") && twice.contains("two checks"),
            "{twice}"
        );
        let time = error("[[check]]\nname='t'\ncommand='x'\ntimeout='soon'\n");
        assert!(time.contains("90s"), "{time}");
        let away = error("[pool]\nname='a'\n[tests]\nplan='../plan.toml'\n");
        assert!(away.starts_with("line 3: `../plan.toml`"), "{away}");
        assert!(error("[[check]]\nname='t'\n").contains("missing field `command`"));
        assert!(error("check = 3").starts_with("line 1"));
        let bytes = ProjectFile::from_bytes(Some(b"a\n\xff")).unwrap_err().to_string();
        assert!(bytes.starts_with("line 2"), "{bytes}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}", time in "[0-9]{0,25}[a-z ]{0,3}") {
            let _ = ProjectFile::parse(&text);
            let _ = duration(&time);
        }
    }
}
