//! `ostler image`.

super::noun!(Image {
    /// List the images, newest first.
    List(list),
    /// Build an image.
    ///
    /// Prints its name, which `ostler pool set --image` takes. One that is there already is found again: the same agent
    /// program and capabilities give the same image.
    Build(build),
    /// Show an image.
    Show(show),
    /// Print the log of an image's build.
    Log(log),
    /// Remove an image, or end its build.
    Rm(rm),
    /// Write the file system of an image as a root drive of virtual machines, and print the path of the file.
    Export(export),
});

use crate::context::Session;
use crate::error::Result;
use crate::table::{Colour, Fields, Table};
use crate::when::{ago, ago_or_dash};
use ostler_contracts::ImageView;
use std::time::Duration;

/// How often it is asked how a build or an export is doing.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Digits of a hash in a table, as in the name.
const SHORT: usize = 16;

/// The hash in what a person gives: a name of an image ends with the beginning of it.
fn hash(text: &str) -> &str {
    text.rsplit_once(':').map_or(text, |(_, hash)| hash)
}

/// Prints the log of a build from its beginning, to the end of the build if it is followed.
async fn print_log(session: &Session, hash: &str, follow: bool, to_error: bool) -> Result<()> {
    let mut after = 0;
    loop {
        let part = session.client.image_log(hash, after).await?;
        if to_error {
            session.out.error_bytes(part.text.as_bytes());
        } else if session.out.json {
            session.out.line(&part)?;
        } else {
            session.out.bytes(part.text.as_bytes())?;
        }
        if part.ended || (!follow && part.text.is_empty()) {
            return Ok(());
        }
        after = part.next;
        if part.text.is_empty() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

fn capabilities(image: &ImageView) -> String {
    let all: Vec<&str> = image
        .capabilities
        .iter()
        .map(|capability| capability.as_str())
        .collect();
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join(",")
    }
}

fn agent(image: &ImageView) -> Option<String> {
    let version = image.agent_version.as_deref().unwrap_or_default();
    Some(format!("{} {version}", image.agent?))
}

fn size(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}

fn table(images: &[ImageView], colour: Colour) -> String {
    let header = [
        "HASH",
        "STATUS",
        "AGENT",
        "CAPABILITIES",
        "BASE",
        "SIZE",
        "CREATED",
        "POOLS",
        "IMAGE",
    ];
    let mut table = Table::new(header, colour);
    for image in images {
        table.row([
            image.hash.chars().take(SHORT).collect(),
            image.status.clone(),
            agent(image).unwrap_or_else(|| "-".to_owned()),
            capabilities(image),
            image.base.clone(),
            image.size_bytes.map_or_else(|| "-".to_owned(), size),
            ago_or_dash(image.created_at),
            if image.pools.is_empty() {
                "-".to_owned()
            } else {
                image.pools.join(",")
            },
            image.tag.clone(),
        ]);
    }
    table.or_empty("no images; build one with `ostler image build`")
}

fn fields(image: &ImageView, colour: Colour) -> String {
    Fields::new(colour)
        .add("Hash", &image.hash)
        .add("Image", &image.tag)
        .add("Status", &image.status)
        .opt("Error", image.error.as_ref())
        .opt("Agent", agent(image))
        .add("Capabilities", capabilities(image))
        .add("Base", &image.base)
        .opt("Size", image.size_bytes.map(size))
        .opt("Created", image.created_at.map(ago))
        .opt("Pools", (!image.pools.is_empty()).then(|| image.pools.join(", ")))
        .render()
}
