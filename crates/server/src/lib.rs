//! The HTTP face: handlers parse and convert, `control` authorises and acts.
//!
//! All of the interface is below `/api/v1`, described by the OpenAPI document at `/api/v1/openapi.json` that is made
//! from the handlers themselves. Every error has the body of [`ostler_contracts::ErrorBody`].

mod auth;
mod error;
mod extract;
mod limits;
mod origin;
mod rate;
mod refusals;
mod routes;
mod state;

pub use origin::Origin;
pub use routes::{openapi, router};
pub use state::{ServerSettings, ServerState};
