//! The suites, and how they end when they are run directly: read by other means than Ostler's.

use ostler_test_kit::suites_dir;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `passed`, `failed` or `skipped` for each case.
pub(crate) type Cases = BTreeMap<String, String>;

/// What both sides have in their environment.
const ENV: [(&str, &str); 4] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("LANG", "C.UTF-8"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONPATH", "src:../site"),
];
/// Left out is what needs a pager, which images seldom have.
const PYTEST: [&str; 9] = [
    "python3",
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-k",
    "not via_pager",
    "--junitxml",
];
/// Reads a report as other programs do.
const READ: &str = r#"
import json, sys, xml.etree.ElementTree as tree
words = {"failure": "failed", "error": "error", "skipped": "skipped"}
cases = {}
for case in tree.parse(sys.argv[1]).iter("testcase"):
    ends = [words[child.tag] for child in case if child.tag in words]
    cases[case.get("classname") + " " + case.get("name")] = ends[0] if ends else "passed"
print(json.dumps(cases))
"#;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Rust,
    Python,
}

/// The tests of a crate or package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    kind: Kind,
    /// With fewer cases something is wrong.
    pub(crate) least: usize,
}

impl Suite {
    pub(crate) fn all() -> Vec<Self> {
        let suite = |name, kind, least| Self { name, kind, least };
        vec![
            // The longest first.
            suite("click", Kind::Python, 2000),
            suite("iniconfig", Kind::Python, 50),
            suite("iniconfig-broken", Kind::Python, 50),
            suite("bytes", Kind::Rust, 900),
            suite("heck", Kind::Rust, 100),
            suite("strsim", Kind::Rust, 90),
            suite("strsim-broken", Kind::Rust, 90),
        ]
    }

    /// As a test of a plan whose workspace has all suites.
    pub(crate) fn as_test(&self) -> Value {
        match self.kind {
            Kind::Rust => json!({
                "name": self.name,
                "cwd": format!("rust/{}", self.name),
                // As cargo does it, which says before each program which one it is.
                "run": "end=0; for program in *; do echo \"     Running $program\"; ./$program || end=$?; done; exit $end",
                "reports": [{ "path": "stdout", "format": "libtest" }],
            }),
            Kind::Python => {
                let mut run: Vec<&str> = PYTEST.to_vec();
                run.push("../report.xml");
                json!({
                    "name": self.name,
                    "cwd": format!("python/{}", self.name),
                    "env": BTreeMap::from(ENV),
                    "run": run,
                    "reports": ["python/report.xml"],
                })
            }
        }
    }

    /// Runs it here.
    pub(crate) fn directly(&self) -> Cases {
        match self.kind {
            Kind::Rust => {
                let mut programs: Vec<PathBuf> = std::fs::read_dir(suites_dir().join("rust").join(self.name))
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .collect();
                programs.sort();
                let mut cases = Cases::new();
                for path in programs {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    let of = program(&path).into_iter();
                    cases.extend(of.map(|(case, outcome)| (format!("{name} {case}"), outcome)));
                }
                cases
            }
            Kind::Python => package(self.name),
        }
    }
}

/// The cases of a program of libtest, by its text for people.
pub(crate) fn program(path: &Path) -> Cases {
    let output = Command::new(path).env_clear().envs(ENV).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut cases = Cases::new();
    for line in text.lines() {
        let Some((name, word)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        else {
            continue;
        };
        let outcome = match word {
            "ok" => "passed",
            "FAILED" => "failed",
            "ignored" => "skipped",
            _ => panic!("{line}"),
        };
        let name = name.strip_suffix(" - should panic").unwrap_or(name);
        assert!(
            cases.insert(name.to_owned(), outcome.to_owned()).is_none(),
            "{line}"
        );
    }
    let failed = cases.values().any(|outcome| outcome == "failed");
    assert_eq!(output.status.success(), !failed, "{text}");
    cases
}

fn package(name: &str) -> Cases {
    // A copy, since tests may write there.
    let dir = tempfile::tempdir().unwrap();
    for part in [name, "site"] {
        let from = suites_dir().join("python").join(part);
        let copied = Command::new("cp").arg("-r").arg(from).arg(dir.path()).status();
        assert!(copied.unwrap().success());
    }
    let report = dir.path().join("report.xml");
    let ran = Command::new(PYTEST[0])
        .args(&PYTEST[1..])
        .arg(&report)
        .current_dir(dir.path().join(name))
        .env_clear()
        .envs(ENV)
        .env("HOME", dir.path())
        .output()
        .unwrap();
    let read = Command::new("python3")
        .args(["-c", READ])
        .arg(&report)
        .output()
        .unwrap();
    assert!(read.status.success(), "{name}: {ran:?} {read:?}");
    serde_json::from_slice(&read.stdout).unwrap()
}
