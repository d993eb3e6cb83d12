//! Where the server is, and who asks.

use crate::error::{CliError, Result};
use crate::output::Output;
use ostler_client::Client;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

/// The file by which a server tells command lines on its machine where it is.
const CONNECTION_FILE: &str = "server.json";

/// What holds for every command.
#[derive(Debug, Clone)]
pub struct Context {
    /// Data directory of a local server, where `server.json` is looked for.
    pub data: PathBuf,
    /// JSON for programs.
    pub json: bool,
    /// URL of the server; that of the local one when absent.
    pub server: Option<String>,
    /// API token; the local server's when absent, but only for the local server.
    pub token: Option<String>,
    /// Tenant to act in, by id or name; the token's own when absent.
    pub tenant: Option<String>,
}

#[derive(Deserialize)]
struct ConnectionFile {
    url: String,
    token: Option<String>,
}

/// What every command works with.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The server's address.
    pub(crate) url: String,
    pub(crate) out: Output,
}

impl Session {
    pub(crate) fn open(context: &Context, out: Output) -> Result<Self> {
        let local = || read_connection(&context.data.join(CONNECTION_FILE));
        // A variable that is set to nothing says nothing.
        let named = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let (url, token) = match (named(&context.server), named(&context.token)) {
            (Some(url), Some(token)) => (url, Some(token)),
            (Some(url), None) => {
                // The local token is for nobody else.
                let token = local()
                    .ok()
                    .filter(|file| same(&file.url, &url))
                    .and_then(|file| file.token);
                (url, token)
            }
            (None, token) => {
                let file = local()?;
                (file.url, token.or(file.token))
            }
        };
        let client = Client::in_tenant(&url, token.as_deref(), named(&context.tenant).as_deref())?;
        Ok(Self { client, url, out })
    }
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

fn read_connection(path: &Path) -> Result<ConnectionFile> {
    let refused = |reason: String| CliError::ConnectionFile {
        path: path.to_owned(),
        reason,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::NoServer(path.to_owned()));
        }
        Err(error) => return Err(refused(error.to_string())),
    };
    serde_json::from_str(&text).map_err(|error| refused(error.to_string()))
}
