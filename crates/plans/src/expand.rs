//! From the plan as written to its list of tests.

use crate::build::Site;
use crate::combine::combinations;
use crate::fields::Matrix;
use crate::file::{PlanFile, TestSpec};
use crate::needs::{self, Draft};
use crate::plan::Plan;
use crate::substitute::{Scope, Wrong};
use crate::tree::{Problem, Source, Step, path_text, read};
use crate::{Format, PlanErrors, limits};
use ostler_domain::Shard;
use std::collections::{BTreeSet, HashMap, HashSet};

pub(crate) fn parse(text: &str, format: Format) -> Result<Plan, PlanErrors> {
    let source = Source::parse(text, format)?;
    let file: PlanFile = read(&source.root).map_err(|problems| source.errors(problems))?;
    let mut sink = Sink::new(&source);
    head(&file, &mut sink);
    let drafts = drafts(&file, &mut sink);
    let tests = if sink.problems.is_empty() {
        needs::ordered(drafts, &mut sink)
    } else {
        Vec::new()
    };
    if !sink.problems.is_empty() {
        let more = sink.full();
        return Err(source.errors((sink.problems, more)));
    }
    let labels = file.labels.unwrap_or_default();
    Ok(Plan {
        name: file.name,
        project: file.project,
        branch: file.branch,
        fail_fast: file.fail_fast.unwrap_or_default(),
        max_parallel: file.max_parallel.map(|n| n.0 as u32),
        labels: labels.into_iter().map(|(k, v)| (k, v.0)).collect(),
        tests,
    })
}

/// Where problems go: each is told once, although it may show in thousands of combinations.
pub(crate) struct Sink<'s> {
    source: &'s Source<'s>,
    pub(crate) problems: Vec<Problem>,
    told: HashSet<(String, String)>,
    /// Bytes of all texts so far.
    bytes: usize,
}

impl<'s> Sink<'s> {
    fn new(source: &'s Source<'s>) -> Self {
        Self {
            source,
            problems: Vec::new(),
            told: HashSet::new(),
            bytes: 0,
        }
    }

    pub(crate) fn tell(&mut self, path: &[Step], wrong: Wrong) {
        let text = path_text(path);
        if !self.full() && self.told.insert((text.clone(), wrong.message.clone())) {
            self.problems.push(Problem {
                place: self.source.root.place_of(path),
                path: text,
                message: wrong.message,
                suggestion: wrong.suggestion,
            });
        }
    }

    /// Whether there is no use in looking for more.
    pub(crate) fn full(&self) -> bool {
        self.problems.len() >= limits::PROBLEMS || self.bytes > limits::EXPANDED
    }

    /// Counts a text of the expanded plan.
    pub(crate) fn count(&mut self, text: &str, path: &[Step]) {
        // A text weighs more than its bytes, also an empty one.
        self.bytes += text.len() + 16;
        if self.bytes > limits::EXPANDED && self.told.insert((String::new(), String::new())) {
            self.problems.push(Problem {
                place: self.source.root.place_of(path),
                path: path_text(path),
                message: format!(
                    "the plan expands to more than {} MiB of text",
                    limits::EXPANDED >> 20
                ),
                suggestion: Some("put long scripts into files of the workspace".to_owned()),
            });
        }
    }

    /// The way to a field of a test: in the test itself, in the defaults, or in the plan.
    pub(crate) fn origin(&self, test: usize, steps: &[Step]) -> Vec<Step> {
        let own = [&[Step::from("tests"), Step::from(test)], steps].concat();
        let defaults = [&[Step::from("defaults")], steps].concat();
        let plan_wide = matches!(steps.first(), Some(Step::Key(key)) if key == "env" || key == "matrix");
        if self.source.root.has(&own) {
            own
        } else if self.source.root.has(&defaults) {
            defaults
        } else if plan_wide && self.source.root.has(steps) {
            steps.to_vec()
        } else {
            own
        }
    }
}

/// Checks what is not about single tests.
fn head(file: &PlanFile, sink: &mut Sink<'_>) {
    if let Some(wrong) = bad_name("plan", &file.name) {
        sink.tell(&["name".into()], wrong);
    }
    if file.branch.is_some() && file.project.is_none() {
        sink.tell(
            &["branch".into()],
            Wrong::new("a branch means nothing without `project`"),
        );
    }
    for (field, value) in [("project", &file.project), ("branch", &file.branch)] {
        if value
            .as_deref()
            .is_some_and(|v| v.trim().is_empty() || v.contains(char::is_control))
        {
            sink.tell(
                &[field.into()],
                Wrong::new(format!("this is no name of a {field}")),
            );
        }
    }
    if file.tests.is_empty() {
        sink.tell(&["tests".into()], Wrong::new("the plan has no tests"));
    }
    if let Some(defaults) = &file.defaults {
        if defaults.name.is_some() {
            sink.tell(
                &["defaults".into(), "name".into()],
                Wrong::new("names cannot be shared; give each test its own"),
            );
        }
        one_command(defaults, &["defaults".into()], sink);
    }
}

fn one_command(spec: &TestSpec, at: &[Step], sink: &mut Sink<'_>) {
    if spec.run.is_some() && spec.script.is_some() {
        sink.tell(
            &[at, &["script".into()]].concat(),
            Wrong::new("`run` and `script` exclude each other; remove one"),
        );
    }
}

fn bad_name(what: &str, name: &str) -> Option<Wrong> {
    if name.trim().is_empty() {
        Some(Wrong::new(format!("the name of a {what} cannot be empty")))
    } else if name.len() > limits::NAME {
        Some(Wrong::new(format!(
            "the name is longer than {} bytes",
            limits::NAME
        )))
    } else if name.contains(char::is_control) || name.trim() != name {
        Some(Wrong::new(
            "a name cannot contain control characters or begin or end with a space",
        ))
    } else {
        None
    }
}

/// All tests, without their needs.
fn drafts(file: &PlanFile, sink: &mut Sink<'_>) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut groups: HashMap<&str, usize> = HashMap::new();
    let empty = TestSpec::default();
    let defaults = file.defaults.as_ref().unwrap_or(&empty);
    for (index, test) in file.tests.iter().enumerate() {
        if sink.full() {
            break;
        }
        let at = [Step::from("tests"), Step::from(index)];
        let name_at = [&at[..], &["name".into()]].concat();
        let Some(name) = test.name.as_deref() else {
            sink.tell(&at, Wrong::new("the field `name` is missing"));
            continue;
        };
        if let Some(wrong) = bad_name("test", name) {
            sink.tell(&name_at, wrong);
        }
        if let Some(first) = groups.insert(name, index) {
            sink.tell(
                &name_at,
                Wrong::new(format!("tests[{first}] is already named `{name}`")),
            );
            continue;
        }
        one_command(test, &at, sink);
        let spec = test.over(defaults);
        if spec.run.is_none() && spec.script.is_none() && spec.kernel.is_none() && test.run.is_none() {
            sink.tell(&at, Wrong::new("there is nothing to run; add `run` or `script`"));
        }
        let matrix = spec.matrix.as_ref().or(file.matrix.as_ref());
        expand_test(file, &spec, index, matrix, sink, &mut drafts);
        if drafts.len() > limits::TESTS {
            let message = format!("the plan expands to more than {} tests", limits::TESTS);
            sink.tell(&at, Wrong::new(message));
            return Vec::new();
        }
    }
    unique(&drafts, sink);
    drafts
}

fn expand_test(
    file: &PlanFile,
    spec: &TestSpec,
    index: usize,
    matrix: Option<&Matrix>,
    sink: &mut Sink<'_>,
    drafts: &mut Vec<Draft>,
) {
    let combinations = match combinations(matrix.unwrap_or(&Matrix::default())) {
        Ok(combinations) => combinations,
        Err(problems) => {
            for (steps, wrong) in problems {
                let below = [&[Step::from("matrix")], &steps[..]].concat();
                let path = sink.origin(index, &below);
                sink.tell(&path, wrong);
            }
            return;
        }
    };
    let axes: BTreeSet<String> = combinations
        .iter()
        .flat_map(|c| c.values.keys().cloned())
        .collect();
    for combination in &combinations {
        let scope = Scope {
            values: &combination.values,
            axes: &axes,
        };
        let mut site = Site {
            sink: &mut *sink,
            test: index,
            scope,
        };
        let shards = site
            .value("shards", &[], spec.shards.as_ref())
            .map(|n| n.0 as u32);
        for shard in 1..=shards.unwrap_or(1) {
            let shard = shards.map(|count| Shard { index: shard, count });
            let draft = site.draft(file, spec, &combination.shown, shard);
            drafts.push(draft);
            if site.sink.full() || drafts.len() > limits::TESTS {
                return;
            }
        }
    }
}

/// Names that became equal by expansion: `a [k=1]` may also be written as such.
fn unique(drafts: &[Draft], sink: &mut Sink<'_>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for draft in drafts {
        let name = &draft.test.name;
        if !seen.insert(name) {
            sink.tell(
                &["tests".into(), draft.index.into(), "name".into()],
                Wrong::new(format!(
                    "two tests are named `{name}` after expansion; rename one"
                )),
            );
        }
    }
}
