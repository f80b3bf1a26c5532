//! The OpenAPI document of the public address.
//!
//! Owns how failures stand in it: by status, each with its text as an example under its code. Must not know any single
//! route: each describes itself.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::PartialSchema;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::{
    Content, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder,
};

use crate::wire::http::{ErrorBody, Problem};

/// What stands above the routes.
pub fn head() -> OpenApi {
    let about = "Bootstrap peers, TURN servers and the directory of servers. Every failure carries its stable code in \
                 X-Error-Code.";
    let info = InfoBuilder::new()
        .title("waypost")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about))
        .license(Some(LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).build()))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// The document as it is served: with the shape of failures, and paths as the document writes them.
pub fn finish(mut document: OpenApi) -> String {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    schemas.insert("ErrorBody".to_owned(), ErrorBody::schema());
    document.to_pretty_json().expect("the document is JSON").replace("/{*", "/{")
}

/// The failures of a route as responses of the document.
pub fn responses(problems: impl IntoIterator<Item = Problem>) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Problem>> = BTreeMap::new();
    for problem in problems {
        let of_status = by_status.entry(problem.status).or_default();
        if !of_status.contains(&problem) {
            of_status.push(problem);
        }
    }
    by_status.into_iter().map(|(status, problems)| (status.to_string(), response(&problems).into())).collect()
}

fn response(problems: &[Problem]) -> Response {
    let codes: Vec<_> = problems.iter().map(|problem| &*problem.refusal.code).collect();
    let content = problems.iter().enumerate().fold(schema(), |content, (number, problem)| {
        let example = ExampleBuilder::new().value(Some(json!(problem.body()))).build();
        // One code may have several texts.
        let first = codes.iter().position(|code| *code == problem.refusal.code) == Some(number);
        let code = &problem.refusal.code;
        let name = if first { code.to_string() } else { format!("{code}-{number}") };
        content.examples_from_iter([(name, example)])
    });
    ResponseBuilder::new().description(codes.join(", ")).content("application/json", content.build()).build()
}

fn schema() -> ContentBuilder {
    Content::builder().schema(Some(RefOr::Ref(Ref::from_schema_name("ErrorBody"))))
}

/// Declares the failures of a route: a type to name among its `responses`.
macro_rules! failures {
    ($($Name:ident: $($problems:expr),+;)+) => { $(
        pub struct $Name;

        impl utoipa::IntoResponses for $Name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::response::Response>,
            > {
                let mut problems: Vec<crate::wire::http::Problem> = Vec::new();
                $(problems.extend($problems);)+
                problems.extend(crate::wire::http::Problem::OF_ALL);
                crate::server::http::openapi::responses(problems)
            }
        }
    )+ };
}
pub(crate) use failures;

failures! {
    AnyFailure: [];
}
