//! Claude Code.
//!
//! The prompt goes to standard input: an argument may not exceed 128 KiB on Linux and can be read by every process.
//! Observed with version 2.1.329: that works for prompts of megabytes, and of all that the program keeps in the home
//! directory only `.claude/projects` is needed to resume, from any working directory.

mod reader;
mod wire;

use crate::kind::{AgentInvocation, check_argument, is_session_id};
use crate::parser::ByLine;
use crate::{AgentError, AgentKind, ModelApi, OutputParser};
use ostler_domain::{CommandSpec, Usage};

pub(crate) use reader::brief;

/// Switches under which the program asks nothing but its model API and lets root skip permission questions.
const ENV: [(&str, &str); 5] = [
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
    ("DISABLE_ERROR_REPORTING", "1"),
    ("DISABLE_TELEMETRY", "1"),
    ("IS_SANDBOX", "1"),
];

/// The kind `claude`.
#[derive(Debug, Clone)]
pub struct Claude {
    program: String,
}

impl Claude {
    /// `program` is its path or name in the sandbox.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
        }
    }
}

impl Default for Claude {
    fn default() -> Self {
        Self::new("claude")
    }
}

impl AgentKind for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn title(&self) -> &'static str {
        "Claude Code"
    }

    fn program(&self) -> Option<&str> {
        Some(&self.program)
    }

    fn install_hint(&self) -> &'static str {
        "npm install -g @anthropic-ai/claude-code"
    }

    fn instruction_file(&self) -> Option<&'static str> {
        Some("CLAUDE.md")
    }

    fn model_api(&self) -> Option<ModelApi> {
        Some(ModelApi::Anthropic)
    }

    fn session_paths(&self) -> &'static [&'static str] {
        &[".claude/projects"]
    }

    fn command(&self, invocation: &AgentInvocation<'_>) -> Result<CommandSpec, AgentError> {
        let fixed = [
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
        ];
        let mut argv = vec![self.program.clone()];
        argv.extend(fixed.map(str::to_owned));
        if let Some(model) = invocation.model {
            check_argument("the model", model)?;
            argv.extend(["--model".to_owned(), model.to_owned()]);
        }
        if let Some(session) = invocation.resume {
            if !is_session_id(session) {
                return Err(AgentError::BadArgument {
                    what: "the session id",
                    value: session.chars().take(256).collect(),
                    reason: "session ids are letters, digits, `-`, `_` and `.`",
                });
            }
            argv.extend(["--resume".to_owned(), session.to_owned()]);
        }
        let mut env = invocation.env.clone();
        env.extend(ENV.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if let Some(api) = invocation.api {
            env.insert("ANTHROPIC_BASE_URL".to_owned(), api.base_url.to_owned());
            env.insert("ANTHROPIC_AUTH_TOKEN".to_owned(), api.token.to_owned());
        }
        Ok(CommandSpec {
            argv,
            env,
            cwd: Some(invocation.workspace.to_owned()),
            stdin: Some(invocation.prompt.to_owned()),
        })
    }

    fn parser(&self, previous: Usage) -> Box<dyn OutputParser> {
        Box::new(ByLine::new(reader::Reader::new(previous)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ApiAccess;
    use std::collections::BTreeMap;

    fn invocation(env: &BTreeMap<String, String>) -> AgentInvocation<'_> {
        AgentInvocation {
            prompt: "the prompt",
            resume: Some("11111111-2222-4333-8444-555555555555"),
            model: Some("opus"),
            api: Some(ApiAccess {
                base_url: "http://127.0.0.1:1",
                token: "run-token",
            }),
            workspace: "/workspace",
            env,
        }
    }

    #[test]
    fn neither_prompt_nor_token_is_an_argument() {
        let env = BTreeMap::new();
        let spec = Claude::default().command(&invocation(&env)).unwrap();
        assert_eq!(spec.stdin.as_deref(), Some("the prompt"));
        assert!(
            spec.argv
                .iter()
                .all(|arg| arg != "the prompt" && arg != "run-token")
        );
        assert_eq!(spec.env["ANTHROPIC_AUTH_TOKEN"], "run-token");
        let tail = &spec.argv[spec.argv.len() - 4..];
        assert_eq!(
            tail,
            [
                "--model",
                "opus",
                "--resume",
                "11111111-2222-4333-8444-555555555555"
            ]
        );
    }

    #[test]
    fn nothing_can_pose_as_an_option() {
        let env = BTreeMap::new();
        let bad = AgentInvocation {
            resume: Some("--mcp-config"),
            ..invocation(&env)
        };
        assert!(Claude::default().command(&bad).is_err());
        let bad = AgentInvocation {
            model: Some("--settings"),
            ..invocation(&env)
        };
        assert!(Claude::default().command(&bad).is_err());
    }
}
