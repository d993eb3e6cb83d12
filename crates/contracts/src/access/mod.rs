//! Who asks; tenants with their departments, users and roles; tokens, credentials and the audit log.

mod audit;
mod credentials;
mod tenants;
mod tokens;
mod users;

pub use audit::*;
pub use credentials::*;
pub use tenants::*;
pub use tokens::*;
pub use users::*;
