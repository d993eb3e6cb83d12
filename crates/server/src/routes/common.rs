//! What holds for every call, written into the OpenAPI document once instead of at each handler.

use crate::auth::TENANT;
use crate::refusals::refusal;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, OpenApi, Required, Type};

/// Adds the refusals that any call may meet, and the header by which an administrator of the platform names a tenant.
pub(super) fn describe(document: &mut OpenApi) {
    // A variable that takes the rest of a path is one of the router's; the document knows only variables.
    let paths = std::mem::take(&mut document.paths.paths);
    let plain = |(path, item): (String, _)| (path.replace("{*", "{"), item);
    document.paths.paths = paths.into_iter().map(plain).collect();
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            describe_operation(operation);
        }
    }
}

fn describe_operation(operation: &mut Operation) {
    let mut add = |status: &str, description: &str| {
        let (status, response) = refusal(status, description);
        operation.responses.responses.entry(status).or_insert(response);
    };
    add(
        "503",
        "It took too long, or something that is needed is not available",
    );
    // An operation that names its security names none: it is open.
    if operation.security.is_some() {
        return;
    }
    add(
        "429",
        "The token makes too many requests; the header Retry-After says how long to wait",
    );
    if operation.request_body.is_some() {
        add("413", "The body is larger than allowed");
    }
    let tenant = ParameterBuilder::new()
        .name(TENANT)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Acts in this tenant, by id or name. Only for administrators of the platform (`admin:*`).",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    operation.parameters.get_or_insert_default().push(tenant.into());
}
