//! Where a request goes.

use crate::GatewayError;
use http::Uri;
use reqwest::Url;

/// Query parameters in which some APIs accept keys.
const KEYS: [&str; 3] = ["key", "api_key", "access_token"];

/// The checked base URL of an upstream.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Without a slash at the end of its path.
    base: Url,
}

impl Target {
    pub(crate) fn new(base_url: &str) -> Result<Self, GatewayError> {
        let wrong = |reason: &str| GatewayError::BaseUrl {
            url: without_user(base_url),
            reason: reason.to_owned(),
        };
        let mut base =
            Url::parse(base_url.trim_end_matches('/')).map_err(|error| wrong(&error.to_string()))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong(
                "a URL must not hold a user or password; set the credential instead",
            ));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("it has a query or fragment"));
        }
        match base.scheme() {
            "https" => {}
            "http" if is_loopback(&base) => {}
            "http" => {
                return Err(wrong(
                    "plain http would show the key to the network; only loopback may use it",
                ));
            }
            _ => return Err(wrong("it must begin with https://")),
        }
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        Ok(Self { base })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    /// The URL for a request to `uri`, without keys in its query; none if the path would leave the base.
    pub(crate) fn url(&self, uri: &Uri) -> Option<Url> {
        let base = self.base.path().trim_end_matches('/');
        let mut url = self.base.clone();
        url.set_path(&format!("{base}{}", uri.path()));
        let query: Vec<&str> = uri
            .query()
            .into_iter()
            .flat_map(|query| query.split('&'))
            .filter(|pair| !KEYS.contains(&pair.split('=').next().unwrap_or_default()))
            .collect();
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        // What was checked must be what is asked: no dots that climb, nothing that is read as something else.
        (url.path() == format!("{base}{}", uri.path())).then_some(url)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

/// For messages: a password in a URL must not come out in the error about it.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base: &str, uri: &str) -> Option<String> {
        Target::new(base)
            .unwrap()
            .url(&uri.parse().unwrap())
            .map(|url| url.to_string())
    }

    #[test]
    fn paths_are_appended_and_queries_kept() {
        let expected = Some("https://api.example/v1/messages?beta=true".to_owned());
        assert_eq!(url("https://api.example", "/v1/messages?beta=true"), expected);
        assert_eq!(url("https://api.example/", "/v1/messages?beta=true"), expected);
        let below = url("http://127.0.0.1:9/a/b/", "/v1/x:y");
        assert_eq!(below.as_deref(), Some("http://127.0.0.1:9/a/b/v1/x:y"));
    }

    #[test]
    fn keys_in_the_query_are_dropped() {
        let got = url(
            "https://g.example",
            "/v1/x?alt=sse&key=planted&access_token=planted",
        );
        assert_eq!(got.as_deref(), Some("https://g.example/v1/x?alt=sse"));
        assert_eq!(
            url("https://g.example", "/v1/x?key=planted").as_deref(),
            Some("https://g.example/v1/x")
        );
    }

    #[test]
    fn paths_cannot_climb_or_change_the_host() {
        for bad in ["/v1/../admin", "/v1/%2e%2e/admin", "/.%2E/x", "/v1/./x"] {
            assert_eq!(url("https://api.example/base", bad), None, "{bad}");
        }
        let odd = url("https://api.example", "//evil.example/x");
        assert!(odd.is_none_or(|url| url.starts_with("https://api.example//")));
    }

    #[test]
    fn unsafe_base_urls_are_refused_without_showing_passwords() {
        for bad in [
            "http://api.example",
            "ftp://x",
            "nonsense",
            "https://x?y=1",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(Target::new(bad).is_err(), "{bad}");
        }
        let error = Target::new("https://me:planted@api.example")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("planted"), "{error}");
        assert!(Target::new("http://[::1]:80").unwrap().is_loopback());
    }
}
