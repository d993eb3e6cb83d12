//! The proxy through which sandboxes reach model APIs.
//!
//! A sandbox holds no key. It is given a base URL that leads here and a token that is worth nothing elsewhere; the
//! server checks the token and hands the request over with the caller it stands for. This crate replaces the caller's
//! credentials by the real ones, lets only known calls pass, streams both ways and counts what was used on the side.

mod credential;
mod environment;
mod failure;
mod gateway;
mod headers;
mod meter;
mod record;
mod settings;
mod stream;
mod target;
mod upstream;

pub use credential::{Credential, Secret};
pub use environment::{FORWARDED_PREFIXES, NEVER_FORWARDED, forwardable_env};
pub use gateway::{Gateway, GatewayError};
pub use record::{Caller, Price, Prices, UsageRecord};
pub use settings::{GatewaySettings, UpstreamSettings};
pub use upstream::Upstream;
