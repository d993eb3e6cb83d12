//! Files that tests left.

use crate::{Client, ClientError, Download};
use ostler_contracts::ArtifactView;
use ostler_domain::RunId;
use reqwest::Method;
use reqwest::header::HeaderMap;

/// Most files that are asked for at once.
const PAGE: usize = 10_000;

impl Client {
    /// The files that a run left, all of them, in the order of their paths.
    pub async fn run_artifacts(&self, run: RunId) -> Result<Vec<ArtifactView>, ClientError> {
        let mut all: Vec<ArtifactView> = Vec::new();
        loop {
            let mut url = self.path(&["runs", &run.to_string(), "artifacts"]);
            url.query_pairs_mut().append_pair("limit", &PAGE.to_string());
            if let Some(last) = all.last() {
                url.query_pairs_mut().append_pair("after", &last.path);
            }
            let page: Vec<ArtifactView> = self.get(url).await?;
            let full = page.len() >= PAGE;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    /// The content of a file that a run left.
    pub async fn download_artifact(&self, run: RunId, path: &str) -> Result<Download, ClientError> {
        let run = run.to_string();
        let segments: Vec<&str> = ["runs", &run, "artifacts"]
            .into_iter()
            .chain(path.split('/'))
            .collect();
        let url = self.path(&segments);
        let response = self
            .stream(Method::GET, &url, HeaderMap::new(), None::<&()>)
            .await?;
        Ok(Download::new(response, self.url().to_owned()))
    }
}
