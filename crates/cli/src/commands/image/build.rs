//! `ostler image build`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use ostler_contracts::BuildImage;
use ostler_domain::{ImageAgent, ImageCapability};

/// What the image is to hold.
#[derive(Debug, clap::Args)]
pub struct Build {
    /// Sets of programs: git, curl, node, python, rust or docker.
    #[arg(value_name = "CAPABILITY", value_parser = capability)]
    capabilities: Vec<ImageCapability>,
    /// Agent program: claude or droid. It brings node.
    #[arg(long, value_name = "AGENT")]
    agent: Option<ImageAgent>,
    /// Version of the agent program at the npm registry; the server's setting when absent.
    #[arg(long, value_name = "VERSION", requires = "agent")]
    agent_version: Option<String>,
    /// Suite of Debian to start from, such as bookworm; the server's setting when absent.
    #[arg(long)]
    suite: Option<String>,
    /// Image of the engine to start from, instead of a Debian of the server's making.
    #[arg(long, value_name = "IMAGE", conflicts_with = "suite")]
    base_image: Option<String>,
    /// Follow the log, and end when the image is ready.
    #[arg(short, long)]
    follow: bool,
}

fn capability(text: &str) -> Result<ImageCapability, String> {
    text.to_ascii_lowercase()
        .parse()
        .map_err(|error: ostler_domain::UnknownText| error.to_string())
}

impl Build {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let wanted = BuildImage {
            agent: self.agent,
            agent_version: self.agent_version,
            capabilities: self.capabilities.into_iter().collect(),
            suite: self.suite,
            base_image: self.base_image,
        };
        let mut image = session.client.build_image(&wanted).await?;
        if self.follow && image.status == "building" {
            super::print_log(session, &image.hash, true, true).await?;
            image = session.client.image(&image.hash).await?;
        }
        session.out.show(&image, || format!("{}\n", image.tag))?;
        match &image.error {
            Some(error) => {
                session
                    .out
                    .note(&format!("ostler: {} was not built: {error}", image.tag));
                return Ok(Exit::FAILED);
            }
            None if image.status == "building" => {
                session.out.note(&format!(
                    "is being built; `ostler image log -f {}` follows it",
                    image.tag
                ));
            }
            None => {}
        }
        Ok(Exit::OK)
    }
}
