//! One request to the model API, read the way a script wants to see it.

use std::collections::BTreeMap;

use serde_json::Value;

/// A request to `POST /v1/messages`, or to any other path an agent program tried.
#[derive(Debug, Clone)]
pub struct Request {
    /// 1 for the first request this server received, then counting up.
    pub number: usize,
    /// HTTP method, in capitals.
    pub method: String,
    /// Path with query, for example `/v1/messages?beta=true`.
    pub path: String,
    /// Headers with lower-case names; of a repeated header the last value.
    pub headers: BTreeMap<String, String>,
    /// The JSON body; `Null` when there was none or it was not JSON.
    pub body: Value,
}

impl Request {
    /// The model name asked for, empty if absent.
    pub fn model(&self) -> &str {
        self.body["model"].as_str().unwrap_or_default()
    }

    /// Whether a streamed answer is asked for.
    pub(super) fn stream(&self) -> bool {
        self.body["stream"].as_bool().unwrap_or(false)
    }

    /// The conversation, oldest message first.
    pub(super) fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Names of the tools the program offers to the model.
    pub fn tools(&self) -> Vec<&str> {
        let tools = self.body["tools"].as_array().map_or(&[][..], Vec::as_slice);
        tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
    }

    /// Whether the program offers a tool of this name.
    pub fn offers(&self, tool: &str) -> bool {
        self.tools().contains(&tool)
    }

    /// What a person (or the orchestrator) typed, oldest first. Tool results and the reminders that agent programs
    /// weave into user messages are not prompts.
    pub(super) fn prompts(&self) -> Vec<String> {
        self.messages().iter().filter_map(prompt_of).collect()
    }

    /// The prompt being answered now: after a resume the new one.
    pub fn prompt(&self) -> String {
        self.prompts().into_iter().next_back().unwrap_or_default()
    }

    /// How many answers the model has already given to the current prompt. A retried request counts the same again,
    /// so a script that depends only on this needs no memory.
    pub fn answers(&self) -> usize {
        self.since_prompt()
            .iter()
            .filter(|message| message["role"] == "assistant")
            .count()
    }

    /// Texts of the results of the tool calls made since the current prompt, oldest first.
    pub(super) fn tool_results(&self) -> Vec<String> {
        let blocks = self
            .since_prompt()
            .iter()
            .filter(|message| message["role"] == "user");
        let blocks = blocks
            .filter_map(|message| message["content"].as_array())
            .flatten();
        blocks
            .filter(|block| block["type"] == "tool_result")
            .map(|block| text_of(&block["content"]))
            .collect()
    }

    /// A header by its lower-case name.
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The credential the program sent: the bearer token, or else the `x-api-key`.
    pub fn credential(&self) -> Option<&str> {
        let bearer = self
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        bearer.or_else(|| self.header("x-api-key"))
    }

    /// Whether this asks for a model answer, as opposed to a count of tokens, a model list or a connection check.
    pub(super) fn is_message(&self) -> bool {
        self.method == "POST" && self.path.split('?').next() == Some("/v1/messages")
    }

    fn since_prompt(&self) -> &[Value] {
        let messages = self.messages();
        let start = messages
            .iter()
            .rposition(|message| prompt_of(message).is_some())
            .map_or(0, |at| at + 1);
        &messages[start..]
    }
}

fn prompt_of(message: &Value) -> Option<String> {
    if message["role"] != "user" {
        return None;
    }
    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
    if blocks.iter().any(|block| block["type"] == "tool_result") {
        return None;
    }
    let text = without_reminders(&text_of(&message["content"]));
    (!text.is_empty()).then_some(text)
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

fn without_reminders(text: &str) -> String {
    const OPEN: &str = "<system-reminder>";
    const CLOSE: &str = "</system-reminder>";
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        kept.push_str(&rest[..start]);
        let after = &rest[start + OPEN.len()..];
        rest = after.find(CLOSE).map_or("", |end| &after[end + CLOSE.len()..]);
    }
    kept.push_str(rest);
    kept.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(messages: &Value) -> Request {
        let body = json!({"model": "m", "messages": messages, "tools": [{"name": "Bash"}]});
        Request {
            number: 1,
            method: "POST".into(),
            path: "/v1/messages?beta=true".into(),
            headers: BTreeMap::new(),
            body,
        }
    }

    #[test]
    fn reminders_and_tool_results_are_not_prompts() {
        let request = request(&json!([
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>be good</system-reminder>"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>date</system-reminder>\n"},
                {"type": "text", "text": "do it"},
            ]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "ok", "is_error": true},
                {"type": "text", "text": "a remark beside the result"},
            ]},
        ]));
        assert_eq!(request.prompts(), ["do it"]);
        assert_eq!(request.answers(), 1);
        assert_eq!(request.tool_results(), ["ok"]);
    }

    #[test]
    fn a_resumed_conversation_counts_from_its_new_prompt() {
        let request = request(&json!([
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "done"},
            {"role": "user", "content": "second"},
        ]));
        assert_eq!(request.prompt(), "second");
        assert_eq!(request.answers(), 0);
        assert!(request.offers("Bash") && request.is_message());
    }

    #[test]
    fn an_unclosed_reminder_hides_the_rest() {
        assert_eq!(without_reminders("a<system-reminder>b"), "a");
    }
}
