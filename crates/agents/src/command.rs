//! Any program as an agent.

use crate::event::clip;
use crate::kind::AgentInvocation;
use crate::parser::{ByLine, LineReader};
use crate::result_block::ResultScanner;
use crate::{AgentError, AgentEvent, AgentExit, AgentKind, AgentReport, ModelApi, OutputParser, Role};
use ostler_domain::{CommandSpec, Usage};

/// The end of the output that is kept as the last word, in bytes.
const FINAL_TEXT: usize = 4 << 10;

/// The kind `command`: a program from the settings that gets the prompt on its standard input.
///
/// What it prints is what the agent says; exit code 0 is success. The prompt is not in the environment, because one
/// variable may not exceed 128 KiB on Linux and a prompt may.
#[derive(Debug, Clone, Default)]
pub struct CommandAgent {
    argv: Vec<String>,
}

impl CommandAgent {
    /// `argv` is the program and its arguments; empty for a kind that is known but not set up.
    pub fn new(argv: Vec<String>) -> Self {
        Self { argv }
    }
}

impl AgentKind for CommandAgent {
    fn name(&self) -> &'static str {
        "command"
    }

    fn title(&self) -> &'static str {
        "Any program"
    }

    fn program(&self) -> Option<&str> {
        self.argv.first().map(String::as_str)
    }

    fn install_hint(&self) -> &'static str {
        "set `command_argv` in `[agents]` to a program that reads the prompt on its standard input"
    }

    fn instruction_file(&self) -> Option<&'static str> {
        None
    }

    fn model_api(&self) -> Option<ModelApi> {
        None
    }

    fn session_paths(&self) -> &'static [&'static str] {
        &[]
    }

    fn command(&self, invocation: &AgentInvocation<'_>) -> Result<CommandSpec, AgentError> {
        if self.argv.is_empty() {
            return Err(AgentError::NotConfigured {
                kind: self.name().to_owned(),
                todo: self.install_hint().to_owned(),
            });
        }
        Ok(CommandSpec {
            argv: self.argv.clone(),
            env: invocation.env.clone(),
            cwd: Some(invocation.workspace.to_owned()),
            stdin: Some(invocation.prompt.to_owned()),
        })
    }

    fn parser(&self, _previous: Usage) -> Box<dyn OutputParser> {
        Box::new(ByLine::new(CommandReader {
            block: ResultScanner::new(),
            tail: String::new(),
        }))
    }
}

struct CommandReader {
    block: ResultScanner,
    /// The end of the output.
    tail: String,
}

impl LineReader for CommandReader {
    fn line(&mut self, line: &str, events: &mut Vec<AgentEvent>) {
        self.block.push(line);
        self.block.push("\n");
        let kept = line.ceil_char_boundary(line.len().saturating_sub(FINAL_TEXT));
        self.tail.push_str(&line[kept..]);
        self.tail.push('\n');
        let from = self
            .tail
            .ceil_char_boundary(self.tail.len().saturating_sub(FINAL_TEXT));
        self.tail.drain(..from);
        if !line.trim().is_empty() {
            events.push(AgentEvent::Message {
                role: Role::Assistant,
                text: clip(line),
            });
        }
    }

    fn ended(&self) -> bool {
        false
    }

    fn report(self, exit: AgentExit) -> AgentReport {
        let final_text = self.tail.trim().to_owned();
        let error = exit.fault().map(|fault| {
            let last = final_text.lines().next_back().unwrap_or_default();
            if last.is_empty() {
                format!("the agent program {fault} and printed nothing")
            } else {
                format!(
                    "the agent program {fault}; it printed last: {}",
                    crate::claude::brief(last)
                )
            }
        });
        AgentReport {
            success: error.is_none(),
            error,
            usage: Usage::default(),
            session: None,
            session_lost: false,
            final_text,
            result_block: self.block.finish(),
            saw_result_event: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn run(output: &[u8], exit: AgentExit) -> (Vec<AgentEvent>, AgentReport) {
        let mut parser = CommandAgent::default().parser(Usage::default());
        let mut events = parser.push(output);
        let (more, report) = parser.finish(exit);
        events.extend(more);
        (events, report)
    }

    #[test]
    fn the_prompt_goes_to_standard_input_only() {
        let env = BTreeMap::from([("OSTLER_TASK_ID".to_owned(), "t1".to_owned())]);
        let invocation = AgentInvocation {
            prompt: "do it",
            resume: None,
            model: None,
            api: None,
            workspace: "/workspace",
            env: &env,
        };
        let spec = CommandAgent::new(vec!["sh".into(), "agent.sh".into()])
            .command(&invocation)
            .unwrap();
        assert_eq!(spec.argv, ["sh", "agent.sh"]);
        assert_eq!(spec.stdin.as_deref(), Some("do it"));
        assert_eq!(spec.env, env);
        let error = CommandAgent::default()
            .command(&invocation)
            .unwrap_err()
            .to_string();
        assert!(error.contains("command_argv"), "{error}");
    }

    #[test]
    fn the_exit_code_decides() {
        let (events, report) = run(b"working\n\n<result>\n{\"n\": 1}\n</result>", AgentExit::Code(0));
        assert!(report.success && report.error.is_none());
        assert_eq!(report.result_block, Ok(Some(json!({"n": 1}))));
        assert_eq!(events.len(), 4);
        let (_, report) = run(b"one\nit broke\n", AgentExit::Code(3));
        let error = report.error.unwrap();
        assert!(
            !report.success && error.contains("code 3") && error.contains("it broke"),
            "{error}"
        );
        assert!(
            run(b"", AgentExit::Signal(9))
                .1
                .error
                .unwrap()
                .contains("signal 9")
        );
    }

    #[test]
    fn the_last_word_is_the_end_of_the_output() {
        let mut output = "é".repeat(FINAL_TEXT).into_bytes();
        output.extend_from_slice(b"\nthe end");
        let (_, report) = run(&output, AgentExit::Code(0));
        assert!(report.final_text.ends_with("the end") && report.final_text.len() <= FINAL_TEXT);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        let (events, _) = run(b"a\xff\xfeb\n", AgentExit::Code(0));
        assert_eq!(
            events,
            [AgentEvent::Message {
                role: Role::Assistant,
                text: "a\u{fffd}\u{fffd}b".into()
            }]
        );
    }
}
