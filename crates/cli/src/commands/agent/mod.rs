//! `ostler agent`.

super::noun!(Agent {
    /// Get a sandbox of your own; prints its id.
    ///
    /// It is there until it is destroyed.
    Provision(provision),
    /// List your sandboxes, newest first.
    List(list),
    /// Show one of your sandboxes, also one that is gone.
    Show(show),
    /// Change the configuration of a sandbox, for programs started from now on; what is not named stays as it is.
    Configure(configure),
    /// Execute a program in a sandbox, and end with its code.
    ///
    /// The program ends when this command does: what has to go on by itself is a run (`ostler run submit`).
    Exec(exec),
    /// Work in a terminal in a sandbox, and end with the program's code.
    ///
    /// A connection that breaks is taken up again; the program waits for a minute.
    Shell(shell),
    /// Copy a file or a directory into a sandbox, or out of it.
    Cp(cp),
    /// Show what a program in a sandbox wrote.
    Logs(logs),
    /// Show what happened to a sandbox.
    Events(events),
    /// Freeze all programs of a sandbox, where its driver can.
    Pause(pause),
    /// Let the programs of a paused sandbox go on.
    Resume(resume),
    /// Keep the state of a sandbox under a name, from which a pool can start.
    Snapshot(snapshot),
    /// End a sandbox with everything in it.
    Destroy(destroy),
});

use crate::input::{json, pair};
use serde_json::Value;

/// How programs in an agent are started, as options.
#[derive(Debug, clap::Args)]
struct ConfigurationArguments {
    /// Configuration, a JSON object, whose `env` becomes environment; `@FILE` reads a file, `-` standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    configuration: Option<String>,
    /// Environment, beside what the configuration has; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A command of `bd` or `orchestrator` that programs in it may use; may be repeated; `all` for all of them.
    #[arg(long = "allow", value_name = "COMMAND")]
    tools: Vec<String>,
}

impl ConfigurationArguments {
    /// The configuration, over `present` when only environment is named; `None` when nothing is.
    fn configuration(&self, present: &Value) -> crate::error::Result<Option<Value>> {
        let mut value = match &self.configuration {
            Some(text) => json(text)?,
            None if self.env.is_empty() => return Ok(None),
            None => present.clone(),
        };
        if value.is_null() {
            value = serde_json::json!({});
        }
        let not_object = |what| crate::error::CliError::Usage(format!("{what} must be a JSON object"));
        let object = value
            .as_object_mut()
            .ok_or_else(|| not_object("the configuration"))?;
        if !self.env.is_empty() {
            let env = object.entry("env").or_insert_with(|| serde_json::json!({}));
            let env = env
                .as_object_mut()
                .ok_or_else(|| not_object("`env` in the configuration"))?;
            env.extend(
                self.env
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone().into())),
            );
        }
        Ok(Some(value))
    }

    /// The list, `None` when nothing is named; that of all commands is the one that says so.
    fn tools(&self) -> Option<Vec<String>> {
        (!self.tools.is_empty()).then(|| self.tools.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn environment_goes_beside_what_is_there() {
        let arguments = |configuration: Option<&str>, env: &[(&str, &str)]| ConfigurationArguments {
            configuration: configuration.map(str::to_owned),
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            tools: Vec::new(),
        };
        let present = json!({ "env": { "A": "1" }, "b": 2 });
        let made = |arguments: ConfigurationArguments| arguments.configuration(&present).ok();
        assert_eq!(made(arguments(None, &[])), Some(None));
        assert_eq!(
            made(arguments(None, &[("C", "3")])),
            Some(Some(json!({ "env": { "A": "1", "C": "3" }, "b": 2 })))
        );
        assert_eq!(
            made(arguments(Some("{}"), &[("C", "3")])),
            Some(Some(json!({ "env": { "C": "3" } })))
        );
        for wrong in ["[]", "1", "{", r#"{"env":[]}"#] {
            assert_eq!(made(arguments(Some(wrong), &[("C", "3")])), None, "{wrong}");
        }
    }
}
