//! The graph itself and its rules.

use super::{Done, Failure};
use ostler_domain::{
    DependencyType, Issue, IssueDependency, IssueStatus, IssueType, ProjectId, TenantId, find_cycle,
};
use std::collections::{BTreeMap, BTreeSet};

/// What became of one issue since the last [`Graph::take_changes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Inserted(Issue),
    /// It is different; `version` is the one that was loaded.
    Changed(Issue),
    /// It is gone; as it was loaded.
    Deleted(Issue),
}

/// The issues of one project.
///
/// Invariants, kept by every command and by the import: dependencies lead to issues that exist; no issue waits for
/// itself, directly or round a cycle; an issue has at most one parent.
#[derive(Debug, Clone)]
pub struct Graph {
    prefix: String,
    tenant: TenantId,
    project: ProjectId,
    epics_close_freely: bool,
    issues: BTreeMap<String, Issue>,
    /// As they were at the last `take_changes`, for those that a command has touched since.
    before: BTreeMap<String, Option<Issue>>,
    /// The same for the command under way.
    journal: BTreeMap<String, Option<Issue>>,
}

impl Graph {
    /// The graph of `project` with ids like `<prefix>-3f2`.
    pub fn new(prefix: impl Into<String>, tenant: TenantId, project: ProjectId, issues: Vec<Issue>) -> Self {
        Self {
            prefix: prefix.into(),
            tenant,
            project,
            epics_close_freely: false,
            issues: issues.into_iter().map(|i| (i.id.clone(), i)).collect(),
            before: BTreeMap::new(),
            journal: BTreeMap::new(),
        }
    }

    /// Whether an epic may be closed while children are open, without `--force`.
    #[must_use]
    pub fn epics_close_freely(mut self, freely: bool) -> Self {
        self.epics_close_freely = freely;
        self
    }

    /// What ids start with, without the hyphen.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All issues in order of id.
    pub fn issues(&self) -> impl Iterator<Item = &Issue> {
        self.issues.values()
    }

    /// One issue.
    pub fn get(&self, id: &str) -> Option<&Issue> {
        self.issues.get(id)
    }

    /// Whether there is an issue with exactly that id.
    pub fn contains(&self, id: &str) -> bool {
        self.issues.contains_key(id)
    }

    /// Number of issues.
    pub fn len(&self) -> usize {
        self.issues.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.issues.is_empty()
    }

    /// What has changed since the last call, in order of id.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.before)
            .into_iter()
            .filter_map(|(id, before)| match (before, self.issues.get(&id)) {
                (None, Some(now)) => Some(Change::Inserted(now.clone())),
                (Some(before), None) => Some(Change::Deleted(before)),
                (Some(before), Some(now)) if before != *now => Some(Change::Changed(now.clone())),
                _ => None,
            })
            .collect()
    }

    /// Issues that `id` waits for: open blockers of its own, and those of what it is part of.
    pub fn blockers(&self, id: &str) -> Vec<&Issue> {
        let mut found = BTreeMap::new();
        let mut at = Some(id);
        // The graph has no cycle, so this ends; the bound is for graphs that were stored wrong.
        for _ in 0..=self.issues.len() {
            let Some(issue) = at.and_then(|id| self.issues.get(id)) else {
                break;
            };
            for dependency in &issue.dependencies {
                if dependency.kind == DependencyType::Blocks
                    && let Some(other) = self.issues.get(&dependency.depends_on)
                    && other.status != IssueStatus::Closed
                {
                    found.insert(other.id.as_str(), other);
                }
            }
            at = issue.parent();
        }
        found.into_values().collect()
    }

    /// Whether `id` could be worked on now: open, not an epic, and nothing that it waits for.
    pub fn is_ready(&self, id: &str) -> bool {
        self.issues.get(id).is_some_and(|issue| {
            issue.status == IssueStatus::Open
                && issue.issue_type != IssueType::Epic
                && self.blockers(id).is_empty()
        })
    }

    /// The parts of `id`.
    pub fn children<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Issue> {
        self.issues
            .values()
            .filter(move |issue| issue.parent() == Some(id))
    }

    /// Issues with a dependency on `id`, of whatever type.
    pub fn dependents<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a Issue, DependencyType)> {
        self.issues.values().filter_map(move |issue| {
            let link = issue.dependencies.iter().find(|d| d.depends_on == id)?;
            Some((issue, link.kind))
        })
    }

    pub(super) fn may_close_epics(&self) -> bool {
        self.epics_close_freely
    }

    pub(super) fn owner(&self) -> (TenantId, ProjectId) {
        (self.tenant, self.project)
    }

    /// The full id for what was typed: itself, or with the prefix left out.
    pub(super) fn find(&self, typed: &str) -> Done<String> {
        let typed = typed.trim();
        let with_prefix = format!("{}-{typed}", self.prefix);
        [typed, with_prefix.as_str()]
            .into_iter()
            .find(|id| self.issues.contains_key(*id))
            .map(str::to_owned)
            .ok_or_else(|| Failure::not_found(typed))
    }

    pub(super) fn issue(&self, id: &str) -> Done<&Issue> {
        self.issues.get(id).ok_or_else(|| Failure::not_found(id))
    }

    /// The issue, to be changed.
    pub(super) fn edit(&mut self, id: &str) -> Done<&mut Issue> {
        self.note(id);
        self.issues.get_mut(id).ok_or_else(|| Failure::not_found(id))
    }

    pub(super) fn insert(&mut self, issue: Issue) {
        self.note(&issue.id);
        self.issues.insert(issue.id.clone(), issue);
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.note(id);
        self.issues.remove(id);
    }

    /// Makes `from` depend on `to`; `false` if it does already. Two issues have one link at most: a stronger type
    /// (blocks, parent-child) replaces a weaker one, and a weaker one is not added to a stronger.
    pub(super) fn link(&mut self, from: &str, to: &str, kind: DependencyType) -> Done<bool> {
        self.issue(to)?;
        if from == to {
            return Err(Failure::new(format!("{from} cannot depend on itself")));
        }
        let issue = self.issue(from)?;
        let link = IssueDependency {
            depends_on: to.to_owned(),
            kind,
        };
        let weak = |kind| matches!(kind, DependencyType::Related | DependencyType::DiscoveredFrom);
        let linked = |d: &IssueDependency| *d == link || (d.depends_on == to && weak(kind) && !weak(d.kind));
        if issue.dependencies.iter().any(linked) {
            return Ok(false);
        }
        if kind == DependencyType::Blocks && self.is_part_of(from, to) {
            return Err(Failure::new(format!(
                "{from} is part of {to} and cannot wait for it: {to} is done only when its parts are"
            )));
        }
        if kind == DependencyType::ParentChild
            && let Some(part) = self.with_parts(from).into_iter().find(|p| self.waits_for(p, to))
        {
            return Err(Failure::new(format!(
                "{part} waits for {to}, so {from} cannot be part of {to}; run `bd dep remove {part} {to}` first"
            )));
        }
        let issue = self.edit(from)?;
        issue
            .dependencies
            .retain(|d| d.depends_on != to && (kind != DependencyType::ParentChild || d.kind != kind));
        issue.dependencies.push(link);
        issue.dependencies.sort();
        if let Some(cycle) = self.cycle() {
            return Err(Failure::new(format!(
                "{from} cannot depend on {to}: dependencies form a cycle: {}; remove one of them first",
                cycle.join(" → ")
            )));
        }
        Ok(true)
    }

    /// Adds a link without a look at the rest of the graph; [`Self::verify`] must follow.
    pub(super) fn connect(&mut self, from: &str, to: &str, kind: DependencyType) -> Done<()> {
        let issue = self.edit(from)?;
        let second_parent = kind == DependencyType::ParentChild && issue.parent().is_some();
        if second_parent || issue.dependencies.iter().any(|d| d.depends_on == to) {
            return Err(Failure::new(format!(
                "{from} has two parents, or two dependencies on {to}"
            )));
        }
        issue.dependencies.push(IssueDependency {
            depends_on: to.to_owned(),
            kind,
        });
        issue.dependencies.sort();
        Ok(())
    }

    /// Checks what [`Self::link`] keeps true, for the whole graph.
    pub(super) fn verify(&self) -> Done<()> {
        if let Some(cycle) = self.cycle() {
            return Err(Failure::new(format!(
                "dependencies form a cycle: {}",
                cycle.join(" → ")
            )));
        }
        for issue in self.issues.values() {
            let waits = issue
                .dependencies
                .iter()
                .filter(|d| d.kind == DependencyType::Blocks);
            if let Some(whole) = waits
                .map(|d| &d.depends_on)
                .find(|d| self.is_part_of(&issue.id, d))
            {
                return Err(Failure::new(format!(
                    "{} is part of {whole} and cannot wait for it",
                    issue.id
                )));
            }
        }
        Ok(())
    }

    /// Removes the link between the two; `false` if there is none.
    pub(super) fn unlink(&mut self, from: &str, to: &str) -> Done<bool> {
        let issue = self.edit(from)?;
        let count = issue.dependencies.len();
        issue.dependencies.retain(|d| d.depends_on != to);
        Ok(issue.dependencies.len() < count)
    }

    /// A cycle of issues that wait for one another, if there is one; being part of something is waiting for whatever
    /// that waits for.
    pub fn cycle(&self) -> Option<Vec<String>> {
        let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
        for issue in self.issues.values() {
            let waits = issue
                .dependencies
                .iter()
                .filter(|d| matches!(d.kind, DependencyType::Blocks | DependencyType::ParentChild));
            edges.insert(issue.id.clone(), waits.map(|d| d.depends_on.clone()).collect());
        }
        find_cycle(&edges).map(|error| error.cycle)
    }

    fn waits_for(&self, from: &str, to: &str) -> bool {
        self.issues.get(from).is_some_and(|issue| {
            issue
                .dependencies
                .iter()
                .any(|d| d.kind == DependencyType::Blocks && d.depends_on == to)
        })
    }

    /// Whether `id` is below `whole`.
    pub(super) fn is_part_of(&self, id: &str, whole: &str) -> bool {
        let mut at = self.issues.get(id).and_then(Issue::parent);
        for _ in 0..=self.issues.len() {
            match at {
                None => return false,
                Some(parent) if parent == whole => return true,
                Some(parent) => at = self.issues.get(parent).and_then(Issue::parent),
            }
        }
        false
    }

    /// `id` and everything below it.
    pub(super) fn with_parts(&self, id: &str) -> Vec<String> {
        let below = self
            .issues
            .keys()
            .filter(|other| self.is_part_of(other, id))
            .cloned();
        std::iter::once(id.to_owned()).chain(below).collect()
    }

    fn note(&mut self, id: &str) {
        if !self.journal.contains_key(id) {
            self.journal.insert(id.to_owned(), self.issues.get(id).cloned());
        }
    }

    pub(super) fn begin(&mut self) {
        self.journal.clear();
    }

    /// Keeps what the command did, or takes it back.
    pub(super) fn end(&mut self, keep: bool) {
        for (id, before) in std::mem::take(&mut self.journal) {
            if keep {
                self.before.entry(id).or_insert(before);
                continue;
            }
            match before {
                Some(issue) => self.issues.insert(id, issue),
                None => self.issues.remove(&id),
            };
        }
    }
}
