//! The Messages API's answers, streamed and whole.

use serde_json::{Value, json};

use super::turn::ToolCall;

/// One answer, ready to be written in either form.
pub(super) struct Answer<'a> {
    pub(super) model: &'a str,
    pub(super) text: Option<&'a str>,
    pub(super) call: Option<&'a ToolCall>,
}

/// Tokens that every answer is said to have cost.
const OUTPUT_TOKENS: u64 = 20;

/// Characters per delta event. Small, so that parsers meet texts and tool inputs that are cut anywhere.
const DELTA: usize = 40;

impl Answer<'_> {
    /// The body of an answer that was not asked to be streamed.
    pub(super) fn whole(&self) -> Value {
        let mut content: Vec<Value> = self
            .text
            .iter()
            .map(|text| json!({"type": "text", "text": text}))
            .collect();
        content.extend(self.call.map(
            |call| json!({"type": "tool_use", "id": tool_id(), "name": call.name, "input": call.input}),
        ));
        json!({
            "id": message_id(), "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": self.stop_reason(), "stop_sequence": null, "usage": usage(OUTPUT_TOKENS),
        })
    }

    /// The events of a streamed answer, each in the text form of server-sent events.
    pub(super) fn events(&self) -> Vec<String> {
        let mut events = vec![event(&json!({"type": "message_start", "message": {
            "id": message_id(), "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage(1),
        }}))];
        events.push(event(&json!({"type": "ping"})));
        let mut index = 0;
        if let Some(text) = self.text {
            let deltas = pieces(text)
                .map(|piece| json!({"type": "text_delta", "text": piece}))
                .collect();
            block(&mut events, index, &json!({"type": "text", "text": ""}), deltas);
            index += 1;
        }
        if let Some(call) = self.call {
            let input = call.input.to_string();
            let mut deltas = vec![json!({"type": "input_json_delta", "partial_json": ""})];
            deltas.extend(
                pieces(&input).map(|piece| json!({"type": "input_json_delta", "partial_json": piece})),
            );
            let start = json!({"type": "tool_use", "id": tool_id(), "name": call.name, "input": {}});
            block(&mut events, index, &start, deltas);
        }
        events.push(event(&json!({
            "type": "message_delta",
            "delta": {"stop_reason": self.stop_reason(), "stop_sequence": null},
            "usage": usage(OUTPUT_TOKENS),
        })));
        events.push(event(&json!({"type": "message_stop"})));
        events
    }

    fn stop_reason(&self) -> &'static str {
        if self.call.is_some() {
            "tool_use"
        } else {
            "end_turn"
        }
    }
}

fn usage(output: u64) -> Value {
    json!({
        "input_tokens": 100,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output,
    })
}

/// The API's error body.
pub(super) fn error_body(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": format!("req_{}", unique())})
}

fn block(events: &mut Vec<String>, index: usize, start: &Value, deltas: Vec<Value>) {
    events.push(event(
        &json!({"type": "content_block_start", "index": index, "content_block": start}),
    ));
    for delta in deltas {
        events.push(event(
            &json!({"type": "content_block_delta", "index": index, "delta": delta}),
        ));
    }
    events.push(event(&json!({"type": "content_block_stop", "index": index})));
}

fn event(data: &Value) -> String {
    format!(
        "event: {}\ndata: {data}\n\n",
        data["type"].as_str().unwrap_or_default()
    )
}

fn pieces(text: &str) -> impl Iterator<Item = String> {
    let chars: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = chars.chunks(DELTA).map(|piece| piece.iter().collect()).collect();
    pieces.into_iter()
}

fn message_id() -> String {
    format!("msg_{}", unique())
}

fn tool_id() -> String {
    format!("toolu_{}", unique())
}

fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(event: &str) -> Value {
        let line = event
            .lines()
            .find_map(|line| line.strip_prefix("data: "))
            .unwrap();
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn the_pieces_of_a_stream_add_up_to_the_whole() {
        let call = ToolCall {
            name: "Bash".into(),
            input: json!({"command": "echo 'ä\"ö' ".repeat(20)}),
        };
        let text = "Grüße ".repeat(30);
        let answer = Answer {
            model: "m",
            text: Some(&text),
            call: Some(&call),
        };
        let events: Vec<Value> = answer.events().iter().map(|event| data(event)).collect();
        let join = |field: &str| -> String {
            events
                .iter()
                .filter_map(|event| event["delta"][field].as_str())
                .collect()
        };
        assert_eq!(join("text"), text);
        assert_eq!(
            serde_json::from_str::<Value>(&join("partial_json")).unwrap(),
            call.input
        );
        let end = &events[events.len() - 2];
        assert_eq!(end["delta"]["stop_reason"], "tool_use");
        assert_eq!(end["usage"], answer.whole()["usage"]);
        assert_eq!(events.last().unwrap()["type"], "message_stop");
    }
}
