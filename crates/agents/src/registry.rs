//! The agent kinds there are.

use crate::{AgentError, AgentKind, Claude, CommandAgent};
use std::sync::Arc;

/// What a person may set about agent kinds.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KindSettings {
    /// Path or name of Claude Code in the sandbox; `claude` when absent.
    pub claude_program: Option<String>,
    /// Program and arguments of the kind `command`; empty when it is not used.
    pub command_argv: Vec<String>,
}

/// All agent kinds, by name.
#[derive(Clone)]
pub struct Kinds(Vec<Arc<dyn AgentKind>>);

impl Kinds {
    /// The kinds with these settings.
    pub fn new(settings: KindSettings) -> Self {
        let claude = settings.claude_program.map_or_else(Claude::default, Claude::new);
        Self(vec![
            Arc::new(claude),
            Arc::new(CommandAgent::new(settings.command_argv)),
        ])
    }

    /// Each kind, in the order in which they are shown.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn AgentKind>> {
        self.0.iter()
    }

    /// The kind of that name.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn AgentKind>, AgentError> {
        self.0
            .iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| AgentError::UnknownKind {
                name: name.to_owned(),
                known: self.0.iter().map(|kind| kind.name().to_owned()).collect(),
            })
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::new(KindSettings::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_name_and_a_wrong_name_lists_them() {
        let settings = KindSettings {
            command_argv: vec!["sh".into()],
            ..KindSettings::default()
        };
        let kinds = Kinds::new(settings);
        assert_eq!(kinds.get("claude").unwrap().title(), "Claude Code");
        assert_eq!(kinds.get("command").unwrap().program(), Some("sh"));
        let error = kinds.get("cluade").err().unwrap().to_string();
        assert!(error.contains("claude, command"), "{error}");
    }
}
