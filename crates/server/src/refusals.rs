//! The refusals that many calls have in common, for the OpenAPI document.

use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

pub(crate) fn refusal(status: &str, description: &str) -> (String, RefOr<Response>) {
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorBody")))
        .build();
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", body);
    (status.to_owned(), response.build().into())
}

macro_rules! refusals {
    ($($name:ident: $($status:literal $description:literal),+;)+) => {$(
        #[doc = concat!($($status, ": ", $description, ". "),+)]
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([$(refusal($status, $description)),+])
            }
        }
    )+};
}

refusals! {
    BadRequest: "400" "The request is not understood";
    Denied: "401" "Who asks is not known", "403" "The permission is missing";
    NotFound: "404" "There is no such thing for this tenant";
    Conflict: "409" "It does not fit the present state";
    Unprocessable: "422" "It cannot be done as asked";
    Unavailable: "503" "Something that is needed is not available";
}
