//! Records the transcripts in `fixtures/claude` by running the real Claude Code program against scripted models.
//!
//! Run it again when the pinned version moves: `cargo run -p ostler-test-kit --example record-claude`. Paths of this
//! machine are replaced by `/home/agent` and `/home/agent/repo`, so that a new recording differs only where Claude Code does.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ostler_test_kit::{
    ClaudeCode, FakeModel,
    model::{Conversation, Script, Turn},
};

fn main() -> Result<(), Box<dyn Error>> {
    let claude = ClaudeCode::find().ok_or("Claude Code is missing: run scripts/install-test-deps")?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/claude");
    fs::create_dir_all(&out)?;
    let root = tempfile::tempdir()?;
    let recorder = Recorder {
        claude,
        out,
        root: root.path().to_owned(),
    };

    let work = |needle: &str| {
        Conversation::about(needle)
            .turn(Turn::bash("echo hello > hello.txt && ls").with_text("I will write the file."))
            .bash("cat hello.txt; exit 3")
            .say("The file says hello.\n\n<result>ok</result>")
    };
    let session = "11111111-2222-4333-8444-555555555555";
    recorder.record(
        "success",
        work("write a greeting"),
        &["write a greeting", "--session-id", session],
    )?;
    let resumed = Conversation::about("and now").say("It still says hello.");
    recorder.record("resume", resumed, &["and now read it again", "--resume", session])?;
    let unknown = "99999999-2222-4333-8444-555555555555";
    recorder.record("unknown-resume", work("x"), &["x", "--resume", unknown])?;
    recorder.record("api-error-500", failing(500, "Internal server error"), &["fail"])?;
    recorder.record("api-error-529", failing(529, "Overloaded"), &["fail"])?;
    recorder.record("api-error-401", failing(401, "invalid x-api-key"), &["fail"])?;
    recorder.record(
        "api-error-429",
        failing(429, "Number of requests has exceeded your limit"),
        &["fail"],
    )?;
    recorder.record(
        "max-turns",
        work("write"),
        &["write a greeting", "--max-turns", "1"],
    )?;
    let denied = Conversation::about("look")
        .bash("touch /somewhere-else")
        .say("I was not allowed to.");
    recorder.record_with(
        "denied-tool",
        denied,
        &["look", "--permission-mode", "default"],
        false,
    )?;
    Ok(())
}

fn failing(status: u16, message: &str) -> Conversation {
    Conversation::about("fail").turn(Turn::http_error(status, message))
}

struct Recorder {
    claude: ClaudeCode,
    out: PathBuf,
    root: PathBuf,
}

impl Recorder {
    fn record(&self, name: &str, script: impl Script, args: &[&str]) -> Result<(), Box<dyn Error>> {
        self.record_with(name, script, args, true)
    }

    fn record_with(
        &self,
        name: &str,
        script: impl Script,
        args: &[&str],
        skip_permissions: bool,
    ) -> Result<(), Box<dyn Error>> {
        let (home, repo) = (self.root.join("home"), self.root.join("repo"));
        fs::create_dir_all(&home)?;
        fs::create_dir_all(&repo)?;
        let model = FakeModel::start(script)?;
        let mut headless = ClaudeCode::headless(args[0]);
        if !skip_permissions {
            headless.retain(|arg| arg != "--dangerously-skip-permissions");
        }
        let output = Command::new(&self.claude.program)
            .args(headless)
            .args(&args[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &home)
            // Errors are retried with growing pauses; two retries show the shape.
            .env("CLAUDE_CODE_MAX_RETRIES", "2")
            .envs(ClaudeCode::env(&model.base_url(), "made-up-token"))
            .current_dir(&repo)
            .stdin(std::process::Stdio::null())
            .output()?;
        let trim = |bytes: &[u8]| self.without_paths(&String::from_utf8_lossy(bytes), &model);
        fs::write(self.out.join(format!("{name}.jsonl")), trim(&output.stdout))?;
        fs::write(self.out.join(format!("{name}.stderr")), trim(&output.stderr))?;
        println!(
            "{name}: exit {:?}, {} lines",
            output.status.code(),
            output.stdout.split(|&b| b == b'\n').count()
        );
        for request in model.requests() {
            println!(
                "  {} {} {} tools={} answers={} prompt={:?}",
                request.method,
                request.path,
                request.model(),
                request.tools().len(),
                request.answers(),
                request.prompt().chars().take(60).collect::<String>(),
            );
        }
        Ok(())
    }

    fn without_paths(&self, text: &str, model: &FakeModel) -> String {
        let root = self.root.to_string_lossy();
        // Claude Code names a project's directory after its path with every other character turned into a dash.
        let dashed: String = root
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        text.replace(&format!("{root}/home"), "/home/agent")
            .replace(&format!("{root}/repo"), "/home/agent/repo")
            .replace(&format!("{dashed}-repo"), "-home-agent-repo")
            .replace(&model.base_url(), "http://127.0.0.1:8080")
    }
}
