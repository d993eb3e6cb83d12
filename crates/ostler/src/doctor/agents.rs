//! Agent programs and the keys of model APIs.

use super::{Check, Status, find_program, first_line};
use crate::settings::Settings;
use ostler_agents::{AgentKind, Kinds, ModelApi};
use ostler_gateway::Upstream;

/// The agent programs on this host. `process` says whether sandboxes see this host's programs.
pub(super) async fn programs(settings: &Settings, process: bool, checks: &mut Vec<Check>) {
    let kinds = Kinds::new(settings.agents.clone());
    let default = &settings.work.agent_kind;
    if let Err(error) = kinds.get(default) {
        checks.push(Check::new(
            Status::Failure,
            "agents",
            error.to_string(),
            "tasks that name no agent kind cannot be made",
            "set `work.agent_kind` to a kind of `ostler kinds`",
        ));
    }
    for kind in kinds.iter() {
        let default = kind.name() == default;
        if let Some(check) = program(kind.as_ref(), default, process).await {
            checks.push(check);
        }
    }
}

/// `None` for a kind that is not set up and not asked for.
async fn program(kind: &dyn AgentKind, default: bool, process: bool) -> Option<Check> {
    let subject = format!("agent {}", kind.name());
    let missing = |found: String| {
        let meaning = if process {
            format!("tasks of the kind {} fail in sandboxes of this host", kind.name())
        } else {
            "sandboxes have their own programs: it must be in their image".to_owned()
        };
        if default {
            Check::new(Status::Warning, &subject, found, meaning, kind.install_hint())
        } else {
            Check::ok(&subject, format!("{found}; only tasks of this kind need it"))
        }
    };
    let Some(name) = kind.program() else {
        return default.then(|| missing("no program is set".to_owned()));
    };
    let Some(file) = find_program(name) else {
        return Some(missing(format!("{name} is not on the path")));
    };
    let shown = file.display();
    let real = file.canonicalize().unwrap_or_else(|_| file.clone());
    if process && !(file.starts_with("/usr") && real.starts_with("/usr")) {
        return Some(Check::new(
            if default { Status::Warning } else { Status::Ok },
            &subject,
            format!("{shown} is there, but not below /usr"),
            "sandboxes of the process driver see only /usr of this host, so the program is not found in them",
            format!("install it for all users: {}", kind.install_hint()),
        ));
    }
    // `--version` would be the prompt of a program of the user's own.
    if kind.model_api().is_none() {
        return Some(Check::ok(&subject, shown.to_string()));
    }
    Some(match first_line(&file, "--version").await {
        Ok(line) => Check::ok(&subject, format!("{line} at {shown}")),
        Err(error) => missing(format!("{shown} does not work: {error}")),
    })
}

/// Whether the server has the key of the default agent's model API. No part of a key is shown.
pub(super) fn keys(settings: &Settings, checks: &mut Vec<Check>) {
    const SUBJECT: &str = "model API";
    let gateway = settings.gateway.resolve(|name| std::env::var(name).ok());
    let has = |upstream: Upstream| {
        gateway
            .upstreams
            .get(&upstream)
            .is_some_and(|settings| settings.credential.is_some())
    };
    let names: Vec<&str> = Upstream::ALL.into_iter().filter(|u| has(*u)).map(name).collect();
    let kinds = Kinds::new(settings.agents.clone());
    let wanted = kinds
        .get(&settings.work.agent_kind)
        .ok()
        .and_then(|kind| kind.model_api())
        .map(|api| match api {
            ModelApi::Anthropic => Upstream::Anthropic,
            ModelApi::OpenAi => Upstream::OpenAi,
            ModelApi::Gemini => Upstream::Gemini,
        });
    checks.push(match wanted {
        Some(wanted) if !has(wanted) => Check::new(
            Status::Warning,
            SUBJECT,
            format!("no key or sign-in of {}", name(wanted)),
            format!(
                "agents of the kind {} cannot reach their model",
                settings.work.agent_kind
            ),
            format!(
                "set `gateway.{}.api_key`, or start the server with {} in its environment",
                section(wanted),
                variable(wanted)
            ),
        ),
        _ if names.is_empty() => Check::ok(SUBJECT, "no key, and the default agent kind needs none"),
        _ => Check::ok(SUBJECT, format!("keys of {}", names.join(", "))),
    });
}

const fn name(upstream: Upstream) -> &'static str {
    match upstream {
        Upstream::Anthropic => "Anthropic",
        Upstream::OpenAi => "OpenAI",
        Upstream::Gemini => "Google Gemini",
    }
}

const fn section(upstream: Upstream) -> &'static str {
    match upstream {
        Upstream::Anthropic => "anthropic",
        Upstream::OpenAi => "openai",
        Upstream::Gemini => "gemini",
    }
}

const fn variable(upstream: Upstream) -> &'static str {
    match upstream {
        Upstream::Anthropic => "ANTHROPIC_API_KEY",
        Upstream::OpenAi => "OPENAI_API_KEY",
        Upstream::Gemini => "GEMINI_API_KEY",
    }
}
