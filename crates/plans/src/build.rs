//! One test for one combination of its matrix.

use crate::expand::Sink;
use crate::fields::{KernelField, ReportField, Requires, Runner};
use crate::file::{PlanFile, TestSpec, merged};
use crate::limits;
use crate::needs::Draft;
use crate::paths::check_glob;
use crate::plan::{PlannedCommand, PlannedTest, test_key};
use crate::substitute::{Scope, Wrong};
use crate::tree::Step;
use crate::values::{Scalar, Template, TextOrList};
use ostler_domain::{
    ArtifactLimits, DriverKind, Kernel, ReportSource, Requirements, Shard, TestNetwork, TestReport,
};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// Set by Ostler for the parts of a sharded test.
const SHARD_INDEX: &str = "OSTLER_SHARD_INDEX";
const SHARD_COUNT: &str = "OSTLER_SHARD_COUNT";
const SHARD_ITEMS: &str = "OSTLER_SHARD_ITEMS";

/// Which test is being expanded, for which combination.
pub(crate) struct Site<'e, 's> {
    pub(crate) sink: &'e mut Sink<'s>,
    /// Its index in the text.
    pub(crate) test: usize,
    pub(crate) scope: Scope<'e>,
}

impl Site<'_, '_> {
    fn tell(&mut self, steps: &[Step], wrong: Wrong) {
        let path = self.sink.origin(self.test, steps);
        self.sink.tell(&path, wrong);
    }

    /// A text after substitution.
    fn text(&mut self, steps: &[Step], text: &str) -> String {
        let result = if text.contains("${matrix.") || text.len() > limits::FIELD {
            self.scope.text(text)
        } else {
            Ok(text.to_owned())
        };
        let wrong = match result {
            Ok(text) if !text.contains('\0') => {
                let path = [Step::from("tests"), Step::from(self.test)];
                self.sink.count(&text, &path);
                return text;
            }
            Ok(_) => Wrong::new("this text contains a NUL character"),
            Err(wrong) => wrong,
        };
        self.tell(steps, wrong);
        // The plan is refused; an empty text would be taken for a second mistake.
        "?".to_owned()
    }

    fn optional(&mut self, field: &str, text: Option<&String>) -> Option<String> {
        text.map(|text| self.text(&[field.into()], text))
    }

    fn texts<'t>(&mut self, steps: &[Step], list: impl IntoIterator<Item = &'t String>) -> Vec<String> {
        let list = list.into_iter().enumerate();
        list.map(|(i, text)| self.text(&[steps, &[i.into()]].concat(), text))
            .collect()
    }

    fn table(
        &mut self,
        steps: &[Step],
        table: Option<&BTreeMap<String, Scalar>>,
    ) -> BTreeMap<String, String> {
        let table = table.into_iter().flatten();
        table
            .map(|(key, value)| {
                let text = self.text(&[steps, &[key.as_str().into()]].concat(), &value.0);
                (key.clone(), text)
            })
            .collect()
    }

    /// A value that may depend on the matrix.
    pub(crate) fn value<T: DeserializeOwned + Clone>(
        &mut self,
        field: &str,
        below: &[Step],
        value: Option<&Template<T>>,
    ) -> Option<T> {
        match value?.resolve(&self.scope) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.tell(&[&[field.into()], below].concat(), wrong);
                None
            }
        }
    }

    pub(crate) fn draft(
        &mut self,
        file: &PlanFile,
        spec: &TestSpec,
        shown: &[(String, String)],
        shard: Option<Shard>,
    ) -> Draft {
        let group = spec.name.clone().unwrap_or_default();
        let name = self.expanded_name(&group, shown, shard);
        let needs = spec.needs.iter().flatten();
        let kernel = spec.kernel.as_ref().map(|kernel| self.kernel(kernel));
        let requires = self.requirements(spec);
        if let Some(kernel) = &kernel {
            self.agreed("kernel", Some(kernel.name.clone()), requires.kernel.clone());
        }
        let test = PlannedTest {
            key: test_key(&file.name, &name),
            name,
            group,
            matrix: self.scope.values.clone(),
            shard,
            items: self.items(spec, shard),
            command: self.command(spec),
            env: self.env(file, spec, shard),
            cwd: self.optional("cwd", spec.cwd.as_ref()),
            stdin: self.optional("stdin", spec.stdin.as_ref()),
            timeout_ms: self.value("timeout", &[], spec.timeout.as_ref()).map(|t| t.0),
            priority: self
                .value("priority", &[], spec.priority.as_ref())
                .map_or(0, |n| n.0 as i32),
            retries: self
                .value("retries", &[], spec.retries.as_ref())
                .map_or(0, |n| n.0 as u32),
            retry_delay_ms: self
                .value("retry_delay", &[], spec.retry_delay.as_ref())
                .map_or(0, |t| t.0),
            needs: Vec::new(),
            requires,
            kernel,
            isolation: self
                .value("isolation", &[], spec.isolation.as_ref())
                .unwrap_or_default(),
            network: self
                .value("network", &[], spec.network.as_ref())
                .unwrap_or(TestNetwork::None),
            artifacts: self.globs(spec.artifacts.iter().flatten()),
            artifact_limits: spec
                .artifact_limits
                .as_ref()
                .map_or_else(ArtifactLimits::default, |l| ArtifactLimits {
                    max_files: l.max_files.map(|n| n.0 as u32),
                    max_bytes: l.max_bytes.map(|n| n.0),
                }),
            reports: self.reports(spec.reports.iter().flatten()),
            quarantined: self
                .value("quarantined", &[], spec.quarantined.as_ref())
                .unwrap_or(false),
            allow_failure: self
                .value("allow_failure", &[], spec.allow_failure.as_ref())
                .unwrap_or(false),
            tags: self.texts(&["tags".into()], spec.tags.iter().flatten()),
        };
        Draft {
            test,
            index: self.test,
            needs: self.texts(&["needs".into()], needs),
        }
    }

    /// The items of a sharded test: single lines, at least one for each part, since a part without any would take itself
    /// for the whole.
    fn items(&mut self, spec: &TestSpec, shard: Option<Shard>) -> Vec<String> {
        let Some(items) = &spec.items else {
            return Vec::new();
        };
        let at = [Step::from("items")];
        let Some(shard) = shard else {
            let wrong = Wrong::new("items are divided among the parts of a test; add `shards`");
            self.tell(&at, wrong);
            return Vec::new();
        };
        let items = self.texts(&at, items);
        let length: usize = items.iter().map(|item| item.len() + 1).sum();
        let mut seen = BTreeSet::new();
        let wrong = if items.len() < shard.count as usize {
            Some(format!(
                "{} items are too few for {} parts",
                items.len(),
                shard.count
            ))
        } else if length > limits::ITEMS {
            Some(format!(
                "the items are longer than {} KiB together",
                limits::ITEMS >> 10
            ))
        } else if items
            .iter()
            .any(|item| item.trim().is_empty() || item.contains(['\n', '\r']))
        {
            Some("an item is one line, and not empty".to_owned())
        } else {
            let twice = items.iter().find(|item| !seen.insert(item.as_str()));
            twice.map(|item| format!("the item `{item}` stands there twice"))
        };
        if let Some(message) = wrong {
            self.tell(&at, Wrong::new(message));
        }
        items
    }

    fn expanded_name(&mut self, group: &str, shown: &[(String, String)], shard: Option<Shard>) -> String {
        let mut parts: Vec<String> = shown
            .iter()
            .map(|(axis, value)| format!("{axis}={value}"))
            .collect();
        if let Some(Shard { index, count }) = shard {
            parts.push(format!("shard={index}/{count}"));
        }
        if parts.is_empty() {
            return group.to_owned();
        }
        let name = format!("{group} [{}]", parts.join(", "));
        if name.len() > limits::NAME {
            let most = limits::NAME;
            let message = format!("with the values of its matrix the name is longer than {most} bytes");
            self.tell(&["name".into()], Wrong::new(message));
        }
        name
    }

    fn command(&mut self, spec: &TestSpec) -> Option<PlannedCommand> {
        let command = match (&spec.run, &spec.script) {
            (Some(TextOrList::Text(text)), _) => PlannedCommand::Shell(self.text(&["run".into()], text)),
            (Some(TextOrList::List(list)), _) => {
                if list.is_empty() {
                    self.tell(
                        &["run".into()],
                        Wrong::new("the list is empty; it begins with the program"),
                    );
                }
                PlannedCommand::Argv(self.texts(&["run".into()], list))
            }
            (None, Some(script)) => PlannedCommand::Script(self.text(&["script".into()], script)),
            (None, None) => return None,
        };
        let (field, empty) = match &command {
            PlannedCommand::Shell(text) => ("run", text.trim().is_empty()),
            PlannedCommand::Script(text) => ("script", text.trim().is_empty()),
            PlannedCommand::Argv(list) => ("run", list.first().is_some_and(String::is_empty)),
        };
        if empty {
            self.tell(&[field.into()], Wrong::new("there is nothing to run in it"));
        }
        Some(command)
    }

    fn env(&mut self, file: &PlanFile, spec: &TestSpec, shard: Option<Shard>) -> BTreeMap<String, String> {
        let all = merged(spec.env.as_ref(), file.env.as_ref());
        for key in all.iter().flat_map(BTreeMap::keys) {
            let steps = [Step::from("env"), Step::from(key.as_str())];
            if key.is_empty() || key.contains(|c: char| c == '=' || c.is_control()) {
                self.tell(
                    &steps,
                    Wrong::new("the name of an environment variable is not empty and has no `=` and no control characters"),
                );
            }
            if [SHARD_INDEX, SHARD_COUNT, SHARD_ITEMS].contains(&key.as_str()) {
                self.tell(
                    &steps,
                    Wrong::new(format!("`{key}` is set by Ostler; use `shards`")),
                );
            }
        }
        let mut env = self.table(&["env".into()], all.as_ref());
        if let Some(Shard { index, count }) = shard {
            env.insert(SHARD_INDEX.to_owned(), index.to_string());
            env.insert(SHARD_COUNT.to_owned(), count.to_string());
        }
        env
    }

    fn requirements(&mut self, spec: &TestSpec) -> Requirements {
        let none = Requires::default();
        let wants = spec.requires.as_ref().unwrap_or(&none);
        let at = |field: &str| [Step::from("requires"), Step::from(field)];
        let runner = self.value("runner", &[], spec.runner.as_ref());
        let driver = self.value("requires", &["driver".into()], wants.driver.as_ref());
        let driver = self.agreed("runner", runner.and_then(|Runner(driver)| driver), driver);
        let image = self.optional("image", spec.image.as_ref());
        let required = wants.image.as_ref().map(|image| self.text(&at("image"), image));
        let image = self.agreed("image", image, required);
        if let (Some(driver), true) = (driver, spec.kernel.is_some())
            && !matches!(
                driver,
                DriverKind::Qemu | DriverKind::Firecracker | DriverKind::Lima
            )
        {
            self.tell(
                &["kernel".into()],
                Wrong {
                    message: format!("the runner {driver} cannot boot a kernel"),
                    suggestion: Some("use `runner = qemu`, or leave it to `auto`".to_owned()),
                },
            );
        }
        let devices = wants.devices.iter().flatten();
        Requirements {
            pool: wants.pool.as_ref().map(|pool| self.text(&at("pool"), pool)),
            driver,
            image,
            arch: wants.arch.as_ref().map(|arch| self.text(&at("arch"), arch)),
            kernel: wants
                .kernel
                .as_ref()
                .map(|kernel| self.text(&at("kernel"), &kernel.0)),
            isolation: self.value("requires", &["isolation".into()], wants.isolation.as_ref()),
            cpus: self
                .value("requires", &["cpus".into()], wants.cpus.as_ref())
                .map(|n| n.0 as u32),
            memory_mb: self
                .value("requires", &["memory_mb".into()], wants.memory_mb.as_ref())
                .map(|n| n.0 as u64),
            disk_mb: self
                .value("requires", &["disk_mb".into()], wants.disk_mb.as_ref())
                .map(|n| n.0 as u64),
            network: self.value("requires", &["network".into()], wants.network.as_ref()),
            labels: self.table(&at("labels"), wants.labels.as_ref()),
            devices: self.texts(&at("devices"), devices).into_iter().collect(),
        }
    }

    /// One value that can be said in two places.
    fn agreed<T: PartialEq>(&mut self, field: &str, short: Option<T>, required: Option<T>) -> Option<T> {
        if let (Some(a), Some(b)) = (&short, &required)
            && a != b
        {
            self.tell(
                &[field.into()],
                Wrong::new(format!(
                    "`{field}` and `requires` ask for different ones; remove one"
                )),
            );
        }
        short.or(required)
    }

    fn kernel(&mut self, KernelField(kernel): &KernelField) -> Kernel {
        let at = |field: &str| [Step::from("kernel"), Step::from(field)];
        let name = self.text(&at("name"), &kernel.name.0);
        if name.trim().is_empty() {
            self.tell(&["kernel".into()], Wrong::new("the name of the kernel is empty"));
        }
        let args = match &kernel.args {
            None => Vec::new(),
            Some(TextOrList::List(list)) => self.texts(&at("args"), list),
            Some(TextOrList::Text(text)) => {
                let text = self.text(&at("args"), text);
                text.split_whitespace().map(str::to_owned).collect()
            }
        };
        let expect = self.value("kernel", &["expect".into()], kernel.expect.as_ref());
        Kernel {
            name,
            args,
            expect: expect.unwrap_or_default(),
        }
    }

    fn glob(&mut self, steps: &[Step], glob: &str) -> String {
        let glob = self.text(steps, glob);
        if let Err(wrong) = check_glob(&glob) {
            self.tell(steps, wrong);
        }
        glob
    }

    fn globs<'t>(&mut self, globs: impl Iterator<Item = &'t String>) -> Vec<String> {
        globs
            .enumerate()
            .map(|(i, glob)| self.glob(&["artifacts".into(), i.into()], glob))
            .collect()
    }

    fn reports<'t>(&mut self, reports: impl Iterator<Item = &'t ReportField>) -> Vec<TestReport> {
        reports
            .enumerate()
            .map(|(i, ReportField(report))| TestReport {
                source: match report.path.as_str() {
                    "stdout" => ReportSource::Stdout,
                    "console" => ReportSource::Console,
                    glob => ReportSource::Files(self.glob(&["reports".into(), i.into()], glob)),
                },
                format: report.format,
            })
            .collect()
    }
}
