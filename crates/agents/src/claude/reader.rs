//! What Claude Code's lines mean, and how a run of it ended.

use super::wire::{self, Block, Line, Message, get, text, view};
use crate::event::clip;
use crate::kind::is_session_id;
use crate::parser::LineReader;
use crate::result_block::ResultScanner;
use crate::{AgentEvent, AgentExit, AgentReport, Role};
use ostler_domain::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Text in an error message, in characters.
const BRIEF: usize = 300;

/// The first part of `text`, on one line, short enough for an error message.
pub(crate) fn brief(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(BRIEF) {
        line.truncate(end);
        line.push('…');
    }
    line
}

pub(super) struct Reader {
    /// Totals of the session before this run.
    previous: Usage,
    session: Option<String>,
    block: ResultScanner,
    /// What the agent itself said last.
    last_message: String,
    /// The last line that was not JSON: where the program says why it cannot start.
    last_unparsed: String,
    spent: Spent,
    last_word: Option<LastWord>,
}

/// What a `result` line says.
struct LastWord {
    fault: Option<String>,
    text: String,
    session_lost: bool,
}

#[derive(Default)]
struct Spent {
    /// Of this run, from its `result` lines.
    reported: Usage,
    /// From the beginnings of answers after the last `result` line; used only if no such line follows.
    seen: Usage,
    /// The answer that was last counted in `seen`: its parts come on lines of their own, each with the same counts.
    seen_message: String,
}

impl Reader {
    pub(super) fn new(previous: Usage) -> Self {
        Self {
            previous,
            session: None,
            block: ResultScanner::new(),
            last_message: String::new(),
            last_unparsed: String::new(),
            spent: Spent::default(),
            last_word: None,
        }
    }

    fn system(&mut self, line: &Line<'_>, events: &mut Vec<AgentEvent>) {
        match text(line.subtype).as_str() {
            "init" => events.push(AgentEvent::SessionStarted {
                session: self.session.clone(),
                model: get(line.model),
            }),
            "api_retry" => events.push(AgentEvent::Retry {
                attempt: get(line.attempt).unwrap_or(0),
                max_attempts: get(line.max_retries),
                // Printed as a whole number now, computed with a random part.
                delay_ms: get::<f64>(line.retry_delay_ms).map_or(0, |ms| ms as u64),
                status: get(line.error_status),
                reason: clip(&text(line.error)),
            }),
            "permission_denied" => events.push(AgentEvent::PermissionDenied {
                tool: clip(&text(line.tool_name)),
                message: clip(&text(line.message)),
            }),
            _ => {}
        }
    }

    fn message(&mut self, line: &Line<'_>, role: Role, events: &mut Vec<AgentEvent>) {
        let Some(message) = view::<Message<'_>>(line.message) else {
            return;
        };
        // Sub-agents speak to the agent: what they say is shown, but is not the agent's word.
        let own = role == Role::Assistant && get::<String>(line.parent_tool_use_id).is_none();
        if role == Role::Assistant {
            self.count(&message);
        }
        if let Some(said) = get::<String>(message.content) {
            self.say(role, own, said, events);
            return;
        }
        for block in view::<Vec<&RawValue>>(message.content).unwrap_or_default() {
            let Ok(block) = serde_json::from_str::<Block<'_>>(block.get()) else {
                continue;
            };
            match text(block.kind).as_str() {
                "text" => self.say(role, own, text(block.text), events),
                "thinking" => {
                    let thought = text(block.thinking);
                    if !thought.is_empty() {
                        events.push(AgentEvent::Thinking { text: clip(&thought) });
                    }
                }
                "tool_use" => events.push(AgentEvent::ToolCall {
                    id: clip(&text(block.id)),
                    name: clip(&text(block.name)),
                    input: wire::tool_input(block.input),
                }),
                "tool_result" => events.push(AgentEvent::ToolResult {
                    id: clip(&text(block.tool_use_id)),
                    is_error: get(block.is_error).unwrap_or(false),
                    text: clip(&wire::content_text(block.content)),
                }),
                _ => {}
            }
        }
    }

    fn say(&mut self, role: Role, own: bool, said: String, events: &mut Vec<AgentEvent>) {
        if said.is_empty() {
            return;
        }
        events.push(AgentEvent::Message {
            role,
            text: clip(&said),
        });
        if own {
            self.block.push(&said);
            self.block.push("\n");
            self.last_message = said;
        }
    }

    fn count(&mut self, message: &Message<'_>) {
        let id = text(message.id);
        if let Some(usage) = wire::tokens(message.usage).filter(|_| id != self.spent.seen_message) {
            wire::add(&mut self.spent.seen, usage);
            self.spent.seen_message = id;
        }
    }

    fn result(&mut self, line: &Line<'_>, events: &mut Vec<AgentEvent>) {
        let usage = self.usage_since_last_result(line);
        wire::add(&mut self.spent.reported, usage);
        self.spent.seen = Usage::default();

        let errors: Vec<String> = get(line.errors).unwrap_or_default();
        let said = get::<String>(line.result).unwrap_or_else(|| errors.join("\n"));
        let session_lost = errors
            .iter()
            .any(|error| error.starts_with("No conversation found"));
        let fault = fault(line, &said);
        events.push(AgentEvent::Usage { usage });
        events.push(AgentEvent::Result {
            is_error: fault.is_some(),
            text: clip(&said),
        });
        self.last_word = Some(LastWord {
            fault,
            text: said,
            session_lost,
        });
    }

    /// The newest versions say it; from older ones it is the session's totals less what was there before. Totals that
    /// are lower than before began anew, because the session's files or the program's version did.
    fn usage_since_last_result(&self, line: &Line<'_>) -> Usage {
        if let Some(usage) = wire::all_models(line.model_usage_since_last_result) {
            return usage;
        }
        let mut before = self.previous;
        wire::add(&mut before, self.spent.reported);
        let less = |total: u64, before: u64| total.checked_sub(before).unwrap_or(total);
        let cost = wire::money(line.total_cost_usd);
        let cost_usd = if cost >= before.cost_usd {
            cost - before.cost_usd
        } else {
            cost
        };
        match wire::all_models(line.model_usage) {
            Some(total) => Usage {
                input_tokens: less(total.input_tokens, before.input_tokens),
                output_tokens: less(total.output_tokens, before.output_tokens),
                cache_read_tokens: less(total.cache_read_tokens, before.cache_read_tokens),
                cache_write_tokens: less(total.cache_write_tokens, before.cache_write_tokens),
                cost_usd,
            },
            None => Usage {
                cost_usd,
                ..wire::tokens(line.usage).unwrap_or_default()
            },
        }
    }
}

/// What is wrong with a `result` line: `subtype` alone says success even when the API failed.
fn fault(line: &Line<'_>, said: &str) -> Option<String> {
    let said = brief(said);
    if let Some(status) = get::<u16>(line.api_error_status) {
        let todo = match status {
            401 | 403 => "; check the model API key of the gateway",
            429 | 529 => "; the API is at its limit, try again later",
            _ => "",
        };
        return Some(format!("the model API answered {status}: {said}{todo}"));
    }
    match text(line.subtype).as_str() {
        "success" if get(line.is_error) == Some(false) => denied(line),
        "success" | "" => Some(format!("Claude Code reported an error: {said}")),
        "error_max_turns" => Some(format!("Claude Code reached its limit of turns: {said}")),
        "error_max_budget_usd" => Some(format!("Claude Code reached its limit of cost: {said}")),
        other => Some(format!("Claude Code reported {other}: {said}")),
    }
}

fn denied(line: &Line<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Denial {
        #[serde(default)]
        tool_name: String,
    }
    let denials: Vec<Denial> = get(line.permission_denials).unwrap_or_default();
    let mut tools: Vec<String> = denials.iter().map(|denial| brief(&denial.tool_name)).collect();
    tools.sort();
    tools.dedup();
    tools.truncate(8);
    (!tools.is_empty()).then(|| {
        format!(
            "Claude Code did not let the agent use {}; look for rules in the repository's .claude/settings.json",
            tools.join(", ")
        )
    })
}

impl LineReader for Reader {
    fn line(&mut self, line: &str, events: &mut Vec<AgentEvent>) {
        if line.trim().is_empty() {
            return;
        }
        let parsed = serde_json::from_str::<Line<'_>>(line).ok();
        let Some((kind, parsed)) = parsed.and_then(|parsed| Some((get::<String>(parsed.kind)?, parsed)))
        else {
            self.last_unparsed = brief(line);
            events.push(AgentEvent::Unparsed { line: clip(line) });
            return;
        };
        if let Some(id) = get::<String>(parsed.session_id).filter(|id| is_session_id(id)) {
            self.session = Some(id);
        }
        match kind.as_str() {
            "system" => self.system(&parsed, events),
            "assistant" => self.message(&parsed, Role::Assistant, events),
            "user" => self.message(&parsed, Role::User, events),
            "result" => self.result(&parsed, events),
            // Kinds of lines that later versions add are no garbage.
            _ => {}
        }
    }

    fn ended(&self) -> bool {
        self.last_word.is_some()
    }

    fn report(self, exit: AgentExit) -> AgentReport {
        let mut usage = self.spent.reported;
        wire::add(&mut usage, self.spent.seen);
        let saw_result_event = self.last_word.is_some();
        let (fault, said, session_lost) = match self.last_word {
            Some(word) => (word.fault, word.text, word.session_lost),
            None => (None, String::new(), false),
        };
        let error = if saw_result_event {
            fault.or_else(|| {
                exit.fault()
                    .map(|how| format!("Claude Code {how} although it reported success"))
            })
        } else {
            let how = exit.fault().unwrap_or_else(|| "ended".to_owned());
            let why = if self.last_unparsed.is_empty() {
                "its standard error may say why".to_owned()
            } else {
                format!("it printed last: {}", self.last_unparsed)
            };
            Some(format!("Claude Code {how} before it reported a result; {why}"))
        };
        AgentReport {
            success: error.is_none(),
            error,
            usage,
            session: self.session.filter(|_| !session_lost),
            session_lost,
            final_text: if said.is_empty() { self.last_message } else { said },
            result_block: self.block.finish(),
            saw_result_event,
        }
    }
}
