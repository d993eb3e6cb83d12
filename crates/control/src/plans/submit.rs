//! From the text of a plan to its runs.

use super::{PlanChoices, PlanFormat, run_id};
use crate::runs::impossible;
use crate::{Caller, Control, ControlError, PlanFault, Result};
use ostler_contracts::{PlanMistake, PlanMistakes, PlanView};
use ostler_domain::{
    CommandSpec, DriverKind, NewRun, Permission, PlanId, Project, ProjectId, Requirements, RunKind, RunSpec,
    TestPlan, TestSpec, WorkspaceSpec,
};
use ostler_plans::{Plan, PlannedCommand, PlannedTest};
use ostler_store::{Change, Filter, Op, StoreExt};
use serde_json::json;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Runs a script that its arguments hold, in pieces: a single argument is limited to 128 KiB. The file is gone before the
/// script begins, so that nothing is left of it where tests are not kept apart. `$1` is the interpreter, `$2` its argument
/// or nothing, as a `#!` line has them.
const SCRIPT: &str = r#"i=$1 a=$2 f=$(mktemp) || exit 126
shift 2
printf %s "$@" >"$f" && exec 3<"$f" && rm -f "$f" || exit 126
if [ -n "$a" ]; then exec "$i" "$a" /proc/self/fd/3; fi
exec "$i" /proc/self/fd/3"#;
/// Bytes of a script in one argument.
const PIECE: usize = 64 << 10;
/// Problems with requirements that are told at once.
const PROBLEMS: usize = 50;

impl Control {
    /// Takes a plan from its text and puts its tests on the queue, in one commit. A text that is no plan is refused with
    /// all its mistakes; so is a plan with a test that no pool can ever execute, with the reason of each pool.
    pub async fn submit_plan(&self, caller: &Caller, text: String, format: PlanFormat) -> Result<PlanView> {
        self.submit_plan_with(caller, text, format, PlanChoices::default())
            .await
    }

    /// The same, with what whoever submits it chooses besides.
    pub async fn submit_plan_with(
        &self,
        caller: &Caller,
        text: String,
        format: PlanFormat,
        choices: PlanChoices,
    ) -> Result<PlanView> {
        caller.require(Permission::TestsWrite)?;
        caller.require(Permission::RunsRead)?;
        let read = tokio::task::spawn_blocking(move || Plan::parse(&text, format)).await;
        let mut plan =
            read.map_err(|error| ControlError::Unavailable(format!("the plan was not read: {error}")))??;
        choices.apply(&mut plan)?;
        let project = match &plan.project {
            Some(name) => Some(self.project_named(caller, name).await?),
            None => None,
        };
        let branch = project.as_ref().map(|project| {
            let own = plan.branch.clone();
            own.unwrap_or_else(|| project.default_branch.clone())
        });
        let head = match (&project, &branch) {
            (Some(project), Some(branch)) => {
                let wanted = choices.revision.as_deref();
                Some(self.revision(project, branch, wanted).await?)
            }
            _ => None,
        };
        self.divide(caller.tenant_id, &mut plan).await?;
        let record = TestPlan {
            id: PlanId::new(),
            tenant_id: caller.tenant_id,
            name: plan.name,
            project_id: project.as_ref().map(|project| project.id),
            branch,
            fail_fast: plan.fail_fast,
            max_parallel: plan.max_parallel,
            labels: plan.labels,
            tests: plan.tests.len() as u32,
            ordered: plan.tests.iter().any(|test| !test.needs.is_empty()),
            cancel_requested: false,
            created_by: caller.user_id,
            created_at: self.now(),
            finished_at: None,
            first_event: 0,
            version: 0,
        };
        let names: Vec<String> = plan.tests.iter().map(|test| test.name.clone()).collect();
        let tests = (0_u32..).zip(plan.tests);
        let runs = tests
            .map(|(index, test)| self.test_run(&record, index, test, &names, head.as_ref()))
            .collect();
        self.begin_plan(caller, record, runs).await
    }

    /// Stores a plan with its runs.
    pub(super) async fn begin_plan(
        &self,
        caller: &Caller,
        mut plan: TestPlan,
        mut runs: Vec<NewRun>,
    ) -> Result<PlanView> {
        self.mark_quarantined(caller, &mut runs).await?;
        self.check_possible(&runs).await?;
        hold(&mut runs, plan.max_parallel);
        plan.first_event = self.parts.store.last_event().await?;
        let details = json!({ "name": plan.name, "tests": plan.tests });
        let mut changes = vec![
            Change::insert(&plan),
            self.event(plan.tenant_id, "plan.created", plan.id, &details),
        ];
        changes.extend(runs.into_iter().map(Change::enqueue));
        let by = self.acting(caller, "plan.submit", plan.id, details);
        by.commit(changes).await?;
        self.plan(caller, plan.id).await
    }

    /// A project of the tenant by its id or name.
    async fn project_named(&self, caller: &Caller, name: &str) -> Result<Project> {
        caller.require(Permission::ProjectsRead)?;
        if let Ok(id) = name.parse::<ProjectId>() {
            return self.project_of(caller.tenant_id, id).await;
        }
        let named = Filter::<Project>::by("tenant_id", caller.tenant_id).and("name", Op::Eq, name.to_owned());
        let project = self.parts.store.first(named).await?;
        project.ok_or_else(|| ControlError::NotFound {
            what: "project",
            id: name.to_owned(),
        })
    }

    /// Refuses what no pool can ever execute.
    async fn check_possible(&self, runs: &[NewRun]) -> Result<()> {
        let mut classes: BTreeMap<&Requirements, (&str, usize)> = BTreeMap::new();
        for run in runs {
            let name = run.spec.test.as_ref().map_or("", |test| test.name.as_str());
            classes.entry(&run.requirements).or_insert((name, 0)).1 += 1;
        }
        let mut errors = Vec::new();
        for (requirements, (name, count)) in classes {
            let verdicts = self.verdicts(requirements).await?;
            if verdicts.iter().any(|verdict| verdict.suitable) {
                continue;
            }
            let which = match count {
                1 => format!("the test `{name}`"),
                _ => format!("the test `{name}` and {} more", count - 1),
            };
            errors.push(PlanMistake {
                line: 0,
                column: 0,
                path: name.to_owned(),
                message: format!("{which} can never be executed: {}", impossible(&verdicts)),
                suggestion: None,
            });
            if errors.len() == PROBLEMS {
                break;
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let more = errors.len() == PROBLEMS;
        Err(ControlError::Plan(
            PlanMistakes { errors, more },
            PlanFault::Impossible,
        ))
    }

    pub(super) fn test_run(
        &self,
        plan: &TestPlan,
        index: u32,
        test: PlannedTest,
        names: &[String],
        head: Option<&String>,
    ) -> NewRun {
        let needs = test.needs.iter().filter_map(|need| names.get(*need as usize));
        let needs = needs.cloned().collect();
        let mut requirements = test.requires;
        if let Some(kernel) = &test.kernel {
            // The one driver that boots a kernel for a test. A path is that of a file of the workspace.
            requirements.driver.get_or_insert(DriverKind::Qemu);
            if !kernel.name.contains('/') {
                requirements.kernel = Some(kernel.name.clone());
            }
        }
        let command = test.command.map(|command| CommandSpec {
            argv: argv(command),
            env: test.env,
            cwd: test.cwd,
            stdin: test.stdin,
        });
        let limit = Duration::from_secs(self.parts.work.agent_timeout_seconds);
        let workspace = plan.project_id.zip(plan.branch.clone());
        NewRun {
            id: run_id(plan.id, &test.key, 1),
            tenant_id: plan.tenant_id,
            kind: RunKind::Test,
            project_id: plan.project_id,
            task_id: None,
            subtask_id: None,
            plan_id: Some(plan.id),
            ordinal: 1,
            requirements,
            priority: test.priority,
            max_attempts: self.parts.work.run_attempts,
            not_before: None,
            held: false,
            spec: RunSpec {
                commands: command.into_iter().collect(),
                agent: None,
                workspace: workspace.map(|(project_id, branch)| WorkspaceSpec {
                    project_id,
                    branch,
                    head: head.cloned(),
                    write_back: false,
                }),
                timeout: Some(test.timeout_ms.map_or(limit, Duration::from_millis)),
                test: Some(Box::new(TestSpec {
                    plan: plan.name.clone(),
                    name: test.name,
                    key: test.key,
                    index,
                    shard: test.shard,
                    needs,
                    retries: test.retries,
                    retry_delay_ms: test.retry_delay_ms,
                    kernel: test.kernel,
                    isolation: test.isolation,
                    network: test.network,
                    artifacts: test.artifacts,
                    artifact_limits: test.artifact_limits,
                    reports: test.reports,
                    quarantined: test.quarantined,
                    allow_failure: test.allow_failure,
                    tags: test.tags,
                })),
            },
            created_at: plan.created_at,
        }
    }
}

/// Holds what needs others, and of the rest what is more than `max_parallel`: those of the highest priority, and among
/// equals the first, begin.
fn hold(runs: &mut [NewRun], max_parallel: Option<u32>) {
    let mut free: Vec<(Reverse<i32>, usize)> = Vec::new();
    for (index, run) in runs.iter_mut().enumerate() {
        run.held = true;
        if run.spec.test.as_ref().is_none_or(|test| test.needs.is_empty()) {
            free.push((Reverse(run.priority), index));
        }
    }
    free.sort_unstable();
    let room = max_parallel.map_or(usize::MAX, |most| most as usize);
    for (_, index) in free.into_iter().take(room) {
        runs[index].held = false;
    }
}

fn argv(command: PlannedCommand) -> Vec<String> {
    let sh = |text: String| vec!["sh".to_owned(), "-c".to_owned(), text];
    let script = match command {
        PlannedCommand::Argv(words) => return words,
        PlannedCommand::Shell(text) => return sh(text),
        PlannedCommand::Script(script) => script,
    };
    let (interpreter, argument) = interpreter(&script);
    let mut words = sh(SCRIPT.to_owned());
    words.extend(["sh".to_owned(), interpreter.to_owned(), argument.to_owned()]);
    let mut rest = script.as_str();
    while !rest.is_empty() {
        let mut end = rest.len().min(PIECE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, behind) = rest.split_at(end);
        words.push(piece.to_owned());
        rest = behind;
    }
    words
}

/// Interpreter and argument of the first line, as the kernel reads it.
fn interpreter(script: &str) -> (&str, &str) {
    let line = script.lines().next().unwrap_or_default();
    let Some(words) = line.strip_prefix("#!").map(str::trim) else {
        return ("sh", "");
    };
    match words.split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, argument.trim()),
        None if words.is_empty() => ("sh", ""),
        None => (words, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Runs a script here, and gives back what it writes.
    fn output(script: &str, stdin: &str) -> String {
        let words = argv(PlannedCommand::Script(script.to_owned()));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn scripts_run_by_their_interpreter_and_keep_their_input() {
        assert_eq!(
            output("read x\nprintf '%s\\n' \"got $x\" '100% \\n'\n\n", "it\n"),
            "got it\n100% \\n\n"
        );
        assert_eq!(
            output("#!/bin/sh -e\ncase $- in *e*) echo strict;; esac\n", ""),
            "strict\n"
        );
        let long = format!("# {}\necho end\n", "ü".repeat(200_000));
        assert_eq!(output(&long, ""), "end\n");
        assert_eq!(
            interpreter("#! /usr/bin/env  python3 -u \nx"),
            ("/usr/bin/env", "python3 -u")
        );
        assert_eq!(interpreter("#!\n"), ("sh", ""));
    }

    #[test]
    fn other_commands_are_taken_as_they_are() {
        let words = ["make", "-j2"].map(str::to_owned);
        assert_eq!(argv(PlannedCommand::Argv(words.to_vec())), words);
        assert_eq!(argv(PlannedCommand::Shell("a | b".into())), ["sh", "-c", "a | b"]);
    }
}
