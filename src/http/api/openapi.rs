//! `/openapi.json`: the description of the control API, generated from its handlers.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::borrow::Cow;

use axum::http::Method;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Required, Response, Schema};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

use super::calls::ACTIONS;
use super::{agents, calls, dead_letters, endpoints, events, idempotency, prompts, recordings, routes};
use crate::call::command::{
    Accept, Destination, Dismiss, Gather, Hold, Invite, Mute, Play, Reject, SendDtmf, SetRole, Transfer,
};
use crate::http::error::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "Patchcord", description = "Controls live WhatsApp calls, their prompts and recordings."),
    paths(
        calls::list, calls::read, calls::act, calls::several::act, prompts::list, prompts::upload, prompts::remove,
        recordings::list, recordings::download, recordings::remove, routes::list, agents::list, events::open,
        dead_letters::list, dead_letters::replay,
    ),
    components(schemas(
        Problem, Accept, Reject, Destination, Transfer, Hold, Mute, Play, Gather, SendDtmf, Invite, SetRole, Dismiss,
        ActionName, ActionBody, Sound,
    )),
    modifiers(&EveryDoor),
    security(("key" = []))
)]
struct Document;

/// The complete document.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The name of an action.
pub(super) struct ActionName;

/// The fields of an action; the action determines which schema applies.
pub(super) struct ActionBody;

/// The bytes of a file.
pub(super) struct Sound;

impl PartialSchema for Sound {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Sound {
    fn name() -> Cow<'static, str> {
        "Sound".into()
    }
}

impl PartialSchema for ActionName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(ACTIONS)).into()
    }
}

impl ToSchema for ActionName {
    fn name() -> Cow<'static, str> {
        "ActionName".into()
    }
}

impl PartialSchema for ActionBody {
    fn schema() -> RefOr<Schema> {
        let bodies = [
            "Accept",
            "Reject",
            "Destination",
            "Transfer",
            "Hold",
            "Mute",
            "Play",
            "Gather",
            "SendDtmf",
            "Invite",
            "SetRole",
            "Dismiss",
        ];
        let nothing = ObjectBuilder::new().schema_type(SchemaType::new(Type::Object));
        let nothing = nothing.description(Some("All other actions have no fields"));
        let schema = bodies.into_iter().fold(AnyOfBuilder::new(), |any, name| any.item(Ref::from_schema_name(name)));
        schema.item(nothing).into()
    }
}

impl ToSchema for ActionBody {
    fn name() -> Cow<'static, str> {
        "ActionBody".into()
    }
}

/// Adds to every path its scope and the errors of a missing or wrong key.
struct EveryDoor;

impl Modify for EveryDoor {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let scheme = scheme.description(Some("A configured API key: `patchcord_<id>_<secret>`")).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme));
        for endpoint in endpoints() {
            let Some(item) = document.paths.paths.get_mut(endpoint.path) else { continue };
            for (method, operation) in
                [("GET", &mut item.get), ("PUT", &mut item.put), ("POST", &mut item.post), ("DELETE", &mut item.delete)]
            {
                let Some(operation) = operation.as_mut().filter(|_| endpoint.method == method) else { continue };
                say_the_usual(operation, endpoint.needs.name());
                if endpoint.method == Method::POST {
                    say_idempotency(operation);
                }
            }
        }
    }
}

fn say_the_usual(operation: &mut Operation, scope: &str) {
    let said = operation.description.take().map(|said| format!("{said}\n\n")).unwrap_or_default();
    operation.description = Some(format!("{said}Needs a key with the scope `{scope}`."));
    for (status, codes) in [
        ("401", "`key_missing`, `key_unknown`, `key_expired`".to_owned()),
        ("403", format!("`missing_scope`: the key lacks `{scope}`; `api_closed`: no key is configured")),
        ("408", "`request_timeout`".to_owned()),
        (
            "429",
            "`rate_limited`: the key's `requests_per_second` (100), or twice as many at once; see \
             `Retry-After`. `too_many_wrong_keys`: too many wrong keys from this address"
                .to_owned(),
        ),
    ] {
        say_problem(operation, status, &codes);
    }
}

/// Adds `Idempotency-Key`, which every POST takes.
fn say_idempotency(operation: &mut Operation) {
    // An empty body counts as `{}`.
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.required = Some(Required::False);
    }
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
    let said = "Makes retries safe: the same request within 24 h gets the same response, with the header \
                `idempotency-replayed: true`";
    let header = ParameterBuilder::new()
        .name(idempotency::HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(said))
        .schema(Some(text.pattern(Some("^[!-~]+$"))));
    operation.parameters.get_or_insert_default().push(header.build().into());
    say_problem(operation, "400", "`invalid_idempotency_key`");
    say_problem(operation, "409", "`request_in_progress`: the first request with this key is not finished");
    say_problem(operation, "422", "`idempotency_key_reused`: this key was used for another request");
    say_problem(operation, "500", "`internal_error`");
}

/// Adds codes to the description of a status.
fn say_problem(operation: &mut Operation, status: &str, codes: &str) {
    if let Some(RefOr::T(known)) = operation.responses.responses.get_mut(status) {
        known.description = format!("{}; {codes}", known.description);
        return;
    }
    let mut response = Response::new(codes);
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    response.content.insert("application/problem+json".to_owned(), problem.into());
    operation.responses.responses.insert(status.to_owned(), response.into());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn described() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    #[test]
    fn every_door_is_described_and_nothing_else_is() {
        let document = described();
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let served: BTreeSet<(String, String)> =
            endpoints().into_iter().map(|endpoint| (endpoint.path.to_owned(), endpoint.method.to_string())).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = described();
        let mut waiting = vec![&document];
        let mut references = 0;
        while let Some(value) = waiting.pop() {
            if let Some(to) = value.get("$ref").and_then(Value::as_str) {
                references += 1;
                assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
            }
            waiting.extend(value.as_array().into_iter().flatten());
            waiting.extend(value.as_object().into_iter().flat_map(|object| object.values()));
        }
        assert!(references > 20, "{references}");
    }

    #[test]
    fn every_door_needs_a_key_and_says_what_a_wrong_one_gets() {
        let document = described();
        assert_eq!(document["security"][0]["key"], Value::Array(Vec::new()));
        for endpoint in endpoints() {
            let method = endpoint.method.as_str().to_lowercase();
            let responses = &document["paths"][endpoint.path][&method]["responses"];
            for status in ["401", "403", "408", "429"] {
                assert!(responses[status].is_object(), "{method} {} {status}", endpoint.path);
            }
        }
    }
}
