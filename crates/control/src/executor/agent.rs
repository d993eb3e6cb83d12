//! Runs of agents: the program of their kind, its output read as it comes, its session kept for the next attempt.

use super::attempt::{Attempt, Ended, Interrupt};
use super::services::run_token;
use super::{AgentServices, Executor};
use crate::ControlError;
use crate::conflict::{is_lost_race, retry_on_conflict};
use ostler_agents::{AgentExit, AgentInvocation, AgentKind, AgentReport, ApiAccess, ModelApi};
use ostler_domain::{AgentSpec, RunKind, RunOutcome, RunStatus, Subtask, Usage};
use ostler_gateway::Upstream;
use ostler_sandbox::worker::{WORKER_ID, WORKER_TYPE, WorkerAuth, WorkerConfig, WorkerPolicy};
use ostler_store::{AgentSession, Change, Filter, Op, StoreExt};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Largest archive of a session that is kept, in bytes; a longer conversation begins anew.
const MAX_SESSION: u64 = 256 << 20;
/// How long a session is kept after its end: an attempt that was to resume it may still wait for its sandbox.
const UNUSED: Duration = Duration::from_secs(3600);

impl Attempt<'_> {
    /// Runs the agent to its end.
    pub(super) async fn agent(
        &mut self,
        spec: &AgentSpec,
        index: u32,
    ) -> Result<(RunStatus, RunOutcome), Interrupt> {
        let failed = |error: &dyn std::fmt::Display| Interrupt::Failed(error.to_string());
        let control = &self.executor.control;
        let kind = control
            .parts
            .kinds
            .get(&spec.kind)
            .map_err(|e| failed(&e))?
            .clone();
        let session = self.session().await?;
        let resumed = session
            .as_ref()
            .filter(|session| spec.resume.as_deref() == Some(&session.agent_session));
        if spec.resume.is_some() && !self.is_known(index) {
            self.carry_session(kind.as_ref(), resumed.is_some()).await?;
        }
        let previous = resumed.map_or_else(Usage::default, |session| session.totals);
        let token = self
            .executor
            .agents
            .as_ref()
            .map(|agents| run_token(&agents.token_key, self.run.submitted.id));
        let api = match (kind.model_api(), &token) {
            (Some(api), Some(token)) => Some(self.api(api, token)?),
            // Without a gateway the program uses a sign-in of its own.
            _ => None,
        };
        let env = self.environment(spec).await?;
        let workspace = self.place.workspace.clone();
        let command = kind
            .command(&AgentInvocation {
                prompt: &spec.prompt,
                resume: spec.resume.as_deref(),
                model: None,
                api,
                workspace: &workspace,
                env: &env,
            })
            .map_err(|e| failed(&e))?;
        if !self.is_known(index) {
            self.say(&format!("{} starts", kind.title()));
        }
        let mut parser = kind.parser(previous);
        let ended = self.program(index, &command, Some(parser.as_mut())).await?;
        if !ended.exited.start_error.is_empty() {
            return Err(Interrupt::Failed(format!(
                "{} could not be started: {}. It must be in the sandbox: {}",
                kind.title(),
                ended.exited.start_error,
                kind.install_hint()
            )));
        }
        let (_, report) = parser.finish(exit(&ended));
        self.keep_session(kind.as_ref(), session, previous, &report).await;
        Ok(self.judge(&ended, report))
    }

    fn judge(&self, ended: &Ended, report: AgentReport) -> (RunStatus, RunOutcome) {
        let mut outcome = self.outcome(ended, report.error);
        outcome.usage = report.usage;
        outcome.agent_session = report.session;
        let mut status = ended.by.unwrap_or(if report.success {
            RunStatus::Succeeded
        } else {
            RunStatus::Failed
        });
        match report.result_block {
            Ok(Some(block)) => outcome.result = Some(block),
            Ok(None) if report.final_text.is_empty() => {}
            Ok(None) => outcome.result = Some(report.final_text.into()),
            Err(error) => {
                outcome.error.get_or_insert(error.to_string());
                if status == RunStatus::Succeeded {
                    status = RunStatus::Failed;
                }
            }
        }
        (status, outcome)
    }

    fn api<'a>(&'a self, api: ModelApi, token: &'a str) -> Result<ApiAccess<'a>, Interrupt> {
        let (upstream, variables) = match api {
            ModelApi::Anthropic => (Upstream::Anthropic, "ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN"),
            ModelApi::OpenAi => (Upstream::OpenAi, "OPENAI_API_KEY"),
            ModelApi::Gemini => (Upstream::Gemini, "GEMINI_API_KEY"),
        };
        let has_key = self
            .executor
            .agents
            .as_ref()
            .is_some_and(|agents| agents.gateway.has_credential(upstream));
        if !has_key {
            return Err(Interrupt::Failed(format!(
                "the server has no key for the model API of {upstream}; set {variables} in its environment and start it \
                 again"
            )));
        }
        if self.place.gateway_url.is_empty() {
            return Err(Interrupt::Failed(
                "programs in this sandbox cannot reach the gateway: its loopback interface does not work"
                    .into(),
            ));
        }
        Ok(ApiAccess {
            base_url: &self.place.gateway_url,
            token,
        })
    }

    /// What the program and its children may know of their run.
    async fn environment(&self, spec: &AgentSpec) -> Result<BTreeMap<String, String>, Interrupt> {
        let submitted = &self.run.submitted;
        let mut env = BTreeMap::from([
            ("OSTLER_RUN_ID".to_owned(), submitted.id.to_string()),
            ("OSTLER_AGENT_KIND".to_owned(), spec.kind.clone()),
            ("OSTLER_ATTEMPT".to_owned(), submitted.ordinal.to_string()),
            ("OSTLER_ROLE".to_owned(), submitted.kind.to_string()),
            (WORKER_ID.to_owned(), submitted.id.to_string()),
            (WORKER_TYPE.to_owned(), submitted.kind.to_string()),
        ]);
        env.extend(self.worker(spec)?);
        if let Some(task) = submitted.task_id {
            env.insert("OSTLER_TASK_ID".to_owned(), task.to_string());
        }
        if let Some(workspace) = &submitted.spec.workspace {
            env.insert("OSTLER_BRANCH".to_owned(), workspace.branch.clone());
        }
        let store = self.executor.control.store();
        let issue = match (submitted.subtask_id, submitted.task_id) {
            (Some(id), _) => {
                env.insert("OSTLER_SUBTASK_ID".to_owned(), id.to_string());
                let subtask: Option<Subtask> = store.get(id).await.map_err(lost)?;
                subtask.map(|subtask| subtask.issue_id)
            }
            (None, Some(id)) => {
                let task: Option<ostler_domain::Task> = store.get(id).await.map_err(lost)?;
                task.and_then(|task| task.epic)
            }
            (None, None) => None,
        };
        env.extend(issue.map(|issue| ("OSTLER_ISSUE_ID".to_owned(), issue)));
        Ok(env)
    }

    /// What its configuration as a worker says. Nothing of the host is opened for it here: mounts are a matter of the pool.
    fn worker(&self, spec: &AgentSpec) -> Result<BTreeMap<String, String>, Interrupt> {
        let gateway = &self.place.gateway_url;
        if self.executor.agents.is_none() || gateway.is_empty() {
            return Ok(BTreeMap::new());
        }
        let submitted = &self.run.submitted;
        let worker = WorkerConfig {
            worker_id: submitted.id.to_string(),
            worker_type: submitted.kind.to_string(),
            agent_kind: spec.kind.clone(),
            // Connections to that address of the sandbox end at the server.
            server_url: gateway.clone(),
            auth: WorkerAuth::ApiKey {
                gateway: gateway.clone(),
            },
            capabilities: BTreeSet::new(),
            home: self.place.home.clone(),
        };
        match worker.setup(&WorkerPolicy::closed("/")) {
            Ok(setup) => Ok(setup.env),
            Err(refused) => Err(Interrupt::Failed(refused.to_string())),
        }
    }

    /// Whose conversation it is.
    fn subject(&self) -> Option<String> {
        let submitted = &self.run.submitted;
        match submitted.kind {
            RunKind::Worker => submitted.subtask_id.map(|id| id.to_string()),
            _ => submitted.task_id.map(|id| id.to_string()),
        }
    }

    async fn session(&self) -> Result<Option<AgentSession>, Interrupt> {
        let Some(subject) = self.subject() else {
            return Ok(None);
        };
        let store = self.executor.control.store();
        store.first(Filter::by("subject", subject)).await.map_err(lost)
    }

    fn archive(&self) -> Option<PathBuf> {
        let agents = self.executor.agents.as_ref()?;
        Some(archive(agents, &self.subject()?))
    }

    /// Brings the conversation that is to be resumed into the sandbox.
    async fn carry_session(&self, kind: &dyn AgentKind, known: bool) -> Result<(), Interrupt> {
        if kind.session_paths().is_empty() {
            return Ok(());
        }
        let archive = self.archive().filter(|path| known && path.exists());
        let Some(archive) = archive else {
            self.forget_session().await;
            return Err(Interrupt::Failed(
                "the agent's session is not there any more; the next attempt begins a new one".into(),
            ));
        };
        Ok(self.guest.upload(&archive, &self.place.home, true).await?)
    }

    /// Keeps the conversation for the next attempt. What fails here costs that attempt its memory and nothing else.
    async fn keep_session(
        &self,
        kind: &dyn AgentKind,
        known: Option<AgentSession>,
        previous: Usage,
        report: &AgentReport,
    ) {
        if report.session_lost {
            return self.forget_session().await;
        }
        let (Some(subject), Some(agent_session), Some(archive)) =
            (self.subject(), report.session.clone(), self.archive())
        else {
            return;
        };
        let paths = kind.session_paths();
        if paths.is_empty() {
            return;
        }
        let part = archive.with_extension("tar.part");
        let kept = async {
            let from = &self.place.home;
            self.guest
                .download(from, paths, &part, MAX_SESSION)
                .await
                .map_err(|error| error.to_string())?;
            tokio::fs::rename(&part, &archive)
                .await
                .map_err(|error| error.to_string())?;
            let control = &self.executor.control;
            let keep = Duration::from_secs(control.parts.work.session_seconds);
            let session = AgentSession {
                subject,
                tenant_id: self.run.submitted.tenant_id,
                agent_session,
                totals: sum(previous, report.usage),
                expires_at: control.now().plus(keep),
                version: known.as_ref().map_or(1, |known| known.version),
            };
            let change = match known {
                Some(_) => Change::update(&session),
                None => Change::insert(&session),
            };
            control
                .commit(vec![change])
                .await
                .map_err(|error| error.to_string())
        };
        if let Err(error) = kept.await {
            tracing::warn!(error, run.id = %self.run.submitted.id, "an agent's session is not kept");
            let _ = tokio::fs::remove_file(&part).await;
            self.forget_session().await;
        }
    }

    async fn forget_session(&self) {
        let Some(subject) = self.subject() else { return };
        if let Some(archive) = self.archive() {
            let _ = tokio::fs::remove_file(archive).await;
        }
        let control = &self.executor.control;
        let forgotten: Result<(), ControlError> = retry_on_conflict!({
            let filter = Filter::<AgentSession>::by("subject", subject.clone());
            match control.store().first(filter).await? {
                Some(session) => control.commit(vec![Change::delete(&session)]).await,
                None => Ok(()),
            }
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "an agent's lost session is still noted");
        }
    }
}

impl Executor {
    /// Removes the sessions that no attempt resumes any more. Returns how many.
    pub async fn expire_sessions(&self) -> Result<usize, ControlError> {
        let Some(agents) = &self.agents else { return Ok(0) };
        let before = self.control.now().minus(UNUSED);
        let unused = Filter::<AgentSession>::all().and("expires_at", Op::Le, before);
        let mut removed = 0;
        for session in self.control.store().list(unused).await? {
            match self.control.commit(vec![Change::delete(&session)]).await {
                Ok(()) => {}
                // It was used after all.
                Err(error) if is_lost_race(&error) => continue,
                Err(error) => return Err(error),
            }
            // A session of another server has no file here.
            let _ = tokio::fs::remove_file(archive(agents, &session.subject)).await;
            removed += 1;
        }
        Ok(removed)
    }
}

fn archive(agents: &AgentServices, subject: &str) -> PathBuf {
    agents.sessions.join(format!("{subject}.tar"))
}

fn lost(error: impl std::fmt::Display) -> Interrupt {
    Interrupt::Lost {
        reason: error.to_string(),
        started: false,
    }
}

fn exit(ended: &Ended) -> AgentExit {
    match (ended.lingered, ended.exited.signal) {
        (true, _) => AgentExit::Lingered,
        (false, 0) => AgentExit::Code(ended.exited.code),
        (false, signal) => AgentExit::Signal(signal),
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        // Programs say what they like.
        input_tokens: a.input_tokens.saturating_add(b.input_tokens),
        output_tokens: a.output_tokens.saturating_add(b.output_tokens),
        cache_read_tokens: a.cache_read_tokens.saturating_add(b.cache_read_tokens),
        cache_write_tokens: a.cache_write_tokens.saturating_add(b.cache_write_tokens),
        cost_usd: a.cost_usd + b.cost_usd,
    }
}
