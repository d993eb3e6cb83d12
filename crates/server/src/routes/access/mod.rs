//! Tenants, departments, users, roles, tokens, credentials and the audit log.

mod audit;
mod credentials;
mod departments;
mod roles;
mod tenants;
mod tokens;
mod users;

use crate::ServerState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn paths() -> OpenApiRouter<ServerState> {
    OpenApiRouter::new()
        .routes(routes!(tokens::me))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(tenants::get, tenants::rename, tenants::remove))
        .routes(routes!(departments::create, departments::list))
        .routes(routes!(departments::rename, departments::remove))
        .routes(routes!(users::create, users::list))
        .routes(routes!(users::get, users::change, users::remove))
        .routes(routes!(users::assign, users::unassign))
        .routes(routes!(roles::create, roles::list))
        .routes(routes!(roles::set, roles::remove))
        .routes(routes!(credentials::list))
        .routes(routes!(credentials::set, credentials::remove))
        .routes(routes!(credentials::rotate))
        .routes(routes!(audit::list))
}
