//! What an image is made of, as data, and the hashes that name it and its phases.
//!
//! A phase is a layer with a hash of its own, made of the phase before it and of the whole text that it executes. So a
//! change of one step makes new what comes after it and nothing else, and recipes share their first layers.

use super::ImageError;
use ostler_domain::{ImageAgent, ImageCapability};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Raised when something about builds changes that the texts of the phases do not show.
const FORMAT: u32 = 1;

/// Digits of a hash in a tag.
pub const SHORT: usize = 16;

/// What every image holds, whatever it is made from.
const ALWAYS: &[&str] = &["ca-certificates", "procps"];

/// What an image is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageBase {
    /// A small Debian of this suite, such as `bookworm`.
    Debian(String),
    /// An image that the engine has, of Debian or one of its children.
    Image(String),
}

/// An agent program in a certain version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPackage {
    /// Which.
    pub agent: ImageAgent,
    /// Version at the npm registry.
    pub version: String,
}

/// The versions of agent programs that new images get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentVersions {
    /// Claude Code.
    pub claude: String,
    /// Factory Droid.
    pub droid: String,
}

impl Default for AgentVersions {
    fn default() -> Self {
        Self {
            claude: "2.1.329".into(),
            droid: "0.225.2".into(),
        }
    }
}

impl AgentVersions {
    /// The package of an agent program.
    pub fn package(&self, agent: ImageAgent) -> AgentPackage {
        let version = match agent {
            ImageAgent::Claude => &self.claude,
            ImageAgent::Droid => &self.droid,
        };
        AgentPackage {
            agent,
            version: version.clone(),
        }
    }
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecipe {
    /// The agent program, which also brings Node.js.
    pub agent: Option<AgentPackage>,
    /// Sets of programs.
    pub capabilities: BTreeSet<ImageCapability>,
    /// What it is made from.
    pub base: ImageBase,
}

/// A step of a build, and a layer of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// Name for people.
    pub name: String,
    /// Hash of everything up to and with this phase, 64 hexadecimal digits.
    pub hash: String,
    /// What is executed by `/bin/sh` as root inside. Network and package sources come from outside of it.
    pub script: String,
}

impl ImageRecipe {
    /// Refuses what could not be a name or a version, and would otherwise be executed.
    pub fn check(&self) -> Result<(), ImageError> {
        let plain = |text: &str, also: &[u8]| {
            (1..=200).contains(&text.len())
                && text.as_bytes()[0].is_ascii_alphanumeric()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || also.contains(&b))
        };
        match &self.base {
            ImageBase::Debian(suite) if !plain(suite, b"-.") => {
                return Err(ImageError::Invalid(format!(
                    "`{suite}` is no suite of Debian, such as bookworm"
                )));
            }
            ImageBase::Image(name) if !plain(name, b"-._/:@") => {
                return Err(ImageError::Invalid(format!("`{name}` is no name of an image")));
            }
            _ => {}
        }
        match &self.agent {
            Some(package) if !plain(&package.version, b"-.+") => Err(ImageError::Invalid(format!(
                "`{}` is no version of {}",
                package.version, package.agent
            ))),
            _ => Ok(()),
        }
    }

    /// `claude`, `droid`, or `base` without an agent program.
    pub fn kind(&self) -> &'static str {
        self.agent
            .as_ref()
            .map_or("base", |package| package.agent.as_str())
    }

    /// Name of the image at the engine.
    pub fn tag(&self) -> String {
        format!("ostler/{}:{}", self.kind(), &self.hash()[..SHORT])
    }

    /// The same text for the same recipe.
    pub fn canonical(&self) -> String {
        // A struct of texts and sets of texts can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The hash of the recipe and of everything that it comes down to, 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        let phases = self.phases();
        let last = phases
            .last()
            .map_or_else(|| self.base_hash(), |phase| phase.hash.clone());
        hash(&serde_json::json!([FORMAT, self.canonical(), last]))
    }

    /// The hash of the base alone.
    pub fn base_hash(&self) -> String {
        match &self.base {
            ImageBase::Debian(suite) => hash(&serde_json::json!([FORMAT, bootstrap(suite)])),
            ImageBase::Image(name) => hash(&serde_json::json!([FORMAT, "image", name])),
        }
    }

    /// The steps on top of the base, in their order.
    pub fn phases(&self) -> Vec<Phase> {
        let mut scripts = Vec::new();
        let always = match self.base {
            ImageBase::Debian(_) => &[][..],
            ImageBase::Image(_) => ALWAYS,
        };
        scripts.push(("setup".to_owned(), format!("{}{SETUP}", install(always))));
        let mut capabilities = self.capabilities.clone();
        if self.agent.is_some() {
            capabilities.insert(ImageCapability::Node);
        }
        for capability in capabilities {
            scripts.push((capability.to_string(), install(packages(capability))));
        }
        if let Some(package) = &self.agent {
            scripts.push((package.agent.to_string(), agent(package)));
        }
        let mut parent = self.base_hash();
        let phase = |(name, script): (String, String)| {
            parent = hash(&serde_json::json!([FORMAT, parent, script]));
            Phase {
                name,
                hash: parent.clone(),
                script,
            }
        };
        scripts.into_iter().map(phase).collect()
    }
}

/// Arguments of `mmdebstrap` for a small Debian, but for where its packages come from and where it goes to.
///
/// What belongs to the host that makes it (package sources, settings of apt) is taken out again.
pub(super) fn bootstrap(suite: &str) -> Vec<String> {
    let hook = format!(
        "--customize-hook=rm -rf \"$1/etc/apt/sources.list\" \"$1\"/etc/apt/sources.list.d/* \
         \"$1/etc/apt/apt.conf.d/99mmdebstrap\"; \
         echo 'deb http://ftp.debian.org/debian {suite} main' > \"$1/etc/apt/sources.list\""
    );
    let mut arguments = vec![
        "--quiet".to_owned(),
        "--variant=minbase".to_owned(),
        "--format=tar".to_owned(),
        format!("--include={}", ALWAYS.join(",")),
        "--aptopt=Acquire::Languages \"none\"".to_owned(),
        "--dpkgopt=force-unsafe-io".to_owned(),
    ];
    for documents in ["doc", "man", "info", "locale"] {
        arguments.push(format!("--dpkgopt=path-exclude=/usr/share/{documents}/*"));
    }
    arguments.push(hook);
    arguments
}

impl ImageBase {
    /// For a base that is made: arguments of `mmdebstrap`, but for where packages come from and where it goes to.
    pub fn bootstrap(&self) -> Option<Vec<String>> {
        match self {
            Self::Debian(suite) => Some(bootstrap(suite)),
            Self::Image(_) => None,
        }
    }
}

/// What the guest and the programs in a sandbox find: a workspace, and a user besides root with a home.
const SETUP: &str = "\
id agent >/dev/null 2>&1 || useradd --create-home --shell /bin/bash agent
mkdir -p /workspace
chown agent: /workspace
";

fn packages(capability: ImageCapability) -> &'static [&'static str] {
    match capability {
        ImageCapability::Git => &["git"],
        ImageCapability::Curl => &["curl"],
        ImageCapability::Node => &["nodejs", "npm"],
        ImageCapability::Python => &["python3", "python3-pip", "python3-venv"],
        ImageCapability::Rust => &["cargo", "gcc", "libc6-dev", "make", "pkg-config", "rustc"],
        ImageCapability::Docker => &["docker.io", "iptables"],
    }
}

fn install(packages: &[&str]) -> String {
    if packages.is_empty() {
        return String::new();
    }
    format!(
        "apt-get update -q\n\
         apt-get install -q -y --no-install-recommends {}\n\
         apt-get clean\n\
         rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig\n",
        packages.join(" ")
    )
}

/// Installs an agent program and asks it for its version: one whose package lacks a part fails here and not in a run.
fn agent(package: &AgentPackage) -> String {
    let (name, link) = match package.agent {
        ImageAgent::Claude => ("@anthropic-ai/claude-code", ""),
        // The package that chooses among platforms is left out: at some registries it misses what it would choose.
        ImageAgent::Droid => (
            "@factory/cli-linux-$arch",
            "ln -sf \"$(npm root --global)/@factory/cli-linux-$arch/bin/droid\" /usr/local/bin/droid\n",
        ),
    };
    format!(
        "case \"$(uname -m)\" in aarch64) arch=arm64 ;; *) arch=x64 ;; esac\n\
         npm install --global --no-audit --no-fund --no-update-notifier \"{name}@{}\"\n\
         {link}\
         rm -rf /root/.npm /root/.config\n\
         HOME=/tmp/home {} --version\n\
         rm -rf /tmp/home\n",
        package.version, package.agent
    )
}

/// SHA-256 of the text of a value whose text is always the same.
fn hash(value: &serde_json::Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ImageCapability::{Curl, Git, Node, Python};

    fn recipe(agent: Option<ImageAgent>, capabilities: &[ImageCapability]) -> ImageRecipe {
        ImageRecipe {
            agent: agent.map(|agent| AgentVersions::default().package(agent)),
            capabilities: capabilities.iter().copied().collect(),
            base: ImageBase::Debian("bookworm".into()),
        }
    }

    #[test]
    fn the_order_of_capabilities_does_not_matter_and_everything_else_does() {
        let one = recipe(None, &[Git, Curl, Python]);
        assert_eq!(one.hash(), recipe(None, &[Python, Git, Curl, Git]).hash());
        let mut version = recipe(Some(ImageAgent::Claude), &[Git]);
        let same = version.hash();
        version.agent.as_mut().unwrap().version.push_str("-next");
        let mut suite = one.clone();
        suite.base = ImageBase::Debian("trixie".into());
        let mut image = one.clone();
        image.base = ImageBase::Image("bookworm".into());
        let all = [
            one.hash(),
            recipe(None, &[Git, Curl]).hash(),
            recipe(Some(ImageAgent::Claude), &[Git, Curl, Python]).hash(),
            recipe(Some(ImageAgent::Droid), &[Git, Curl, Python]).hash(),
            same,
            version.hash(),
            suite.hash(),
            image.hash(),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    }

    #[test]
    fn a_recipe_keeps_its_hash_from_release_to_release() {
        // A change here makes all images of all installations anew: right when a step changed, otherwise a mistake.
        let hash = recipe(Some(ImageAgent::Claude), &[Git, Python]).hash();
        assert_eq!(hash, KNOWN, "the steps have changed");
    }
    const KNOWN: &str = "9e66d8c4a715aef4e5da707cfec6e0e2d20b92763c65afe980201b4ef2076cc8";

    #[test]
    fn first_phases_are_shared_and_later_ones_depend_on_them() {
        let hashes = |recipe: &ImageRecipe| -> Vec<String> {
            recipe.phases().into_iter().map(|phase| phase.hash).collect()
        };
        let (short, long) = (
            hashes(&recipe(None, &[Git])),
            hashes(&recipe(None, &[Git, Python])),
        );
        assert_eq!(short, long[..2]);
        let (with, without) = (
            hashes(&recipe(None, &[Git, Python])),
            hashes(&recipe(None, &[Python])),
        );
        assert_ne!(with.last(), without.last());
    }

    #[test]
    fn an_agent_brings_node_once() {
        let names = |recipe: ImageRecipe| -> Vec<String> {
            recipe.phases().into_iter().map(|phase| phase.name).collect()
        };
        assert_eq!(
            names(recipe(Some(ImageAgent::Droid), &[Git])),
            ["setup", "git", "node", "droid"]
        );
        assert_eq!(
            names(recipe(Some(ImageAgent::Droid), &[Node])),
            ["setup", "node", "droid"]
        );
    }

    #[test]
    fn a_tag_names_the_kind_and_the_hash() {
        let claude = recipe(Some(ImageAgent::Claude), &[]);
        assert_eq!(claude.tag(), format!("ostler/claude:{}", &claude.hash()[..16]));
        assert!(recipe(None, &[Git]).tag().starts_with("ostler/base:"));
        let text = claude.canonical();
        assert_eq!(serde_json::from_str::<ImageRecipe>(&text).unwrap(), claude);
    }

    #[test]
    fn what_would_be_executed_is_refused() {
        for version in ["", "1;reboot", "$(x)", "1 2", "-g", "a\nb"] {
            let mut wrong = recipe(Some(ImageAgent::Claude), &[]);
            wrong.agent.as_mut().unwrap().version = version.into();
            assert!(wrong.check().is_err(), "{version}");
        }
        for suite in ["", "book worm", "x'y", "../x"] {
            let mut wrong = recipe(None, &[]);
            wrong.base = ImageBase::Debian(suite.into());
            assert!(wrong.check().is_err(), "{suite}");
        }
        recipe(Some(ImageAgent::Droid), &[Git]).check().unwrap();
    }
}
