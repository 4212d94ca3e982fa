//! `/openapi.json`: the description of the control API, generated from its handlers.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::borrow::Cow;

use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Required, Response, Schema};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::auth::Needs;
use super::{endpoints, idempotency, page_endpoints};
use crate::call::command::{
    ACTIONS, Accept, CourseCommand, Destination, Dismiss, Gather, Hold, Invite, Mute, Play, Reject, SendDtmf,
    SetClientState, SetRole, SignalCommand, SoundCommand, Transfer,
};
use crate::call::signaling::{MetaAnswer, MetaStep, Terminated};
use crate::http::error::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "Patchcord", description = "Controls live WhatsApp calls, their prompts and recordings."),
    components(schemas(
        Problem, Accept, Reject, Destination, Transfer, Hold, Mute, Play, Gather, SendDtmf, Invite, SetRole, Dismiss,
        SetClientState, MetaAnswer, MetaStep, Terminated, ActionName, ActionBody, Sound,
    )),
    security(("key" = []))
)]
struct Document;

/// How pages and sockets show that they may.
const TOKEN: &str = "Of `POST /v1/calls/{call_id}/webrtc_tokens` (`patchcordrtc_<secret>`) or \
    `POST /v1/calls/{call_id}/media_tokens` (`patchcordmedia_<secret>`)";

/// The complete document.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let scheme = scheme.description(Some("A configured API key: `patchcord_<id>_<secret>`")).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme));
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let scheme = scheme.description(Some(TOKEN)).build();
    components.add_security_scheme("token", SecurityScheme::Http(scheme));
    for (needs, (schemas, mut paths, _)) in endpoints() {
        components.schemas.extend(schemas);
        for item in paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.put, &mut item.delete].into_iter().flatten() {
                say_the_usual(operation, needs);
            }
            if let Some(operation) = &mut item.post {
                say_the_usual(operation, needs);
                say_idempotency(operation);
            }
        }
        document.paths.merge(paths);
    }
    for (schemas, mut paths, _) in page_endpoints() {
        components.schemas.extend(schemas);
        for item in paths.paths.values_mut() {
            let tokens = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
            tokens.into_iter().flatten().for_each(say_token);
        }
        document.paths.merge(paths);
    }
    document
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
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(ACTIONS.iter().copied())).into()
    }
}

impl ToSchema for ActionName {
    fn name() -> Cow<'static, str> {
        "ActionName".into()
    }
}

impl PartialSchema for ActionBody {
    fn schema() -> RefOr<Schema> {
        let mut bodies: Vec<&str> = Vec::new();
        for body in CourseCommand::BODIES.iter().chain(SoundCommand::BODIES).chain(SignalCommand::BODIES) {
            if !bodies.contains(body) {
                bodies.push(body);
            }
        }
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

/// Adds the scope, and the errors of a missing or wrong key.
fn say_the_usual(operation: &mut Operation, needs: Needs) {
    let scope = needs.scope().name();
    let said = operation.description.take().map(|said| format!("{said}\n\n")).unwrap_or_default();
    let said = match needs.admits_agents() {
        true => format!("{said}An agent's key may use it too, of calls only for its own. "),
        false => said,
    };
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

/// Adds the errors of a missing or wrong token.
fn say_token(operation: &mut Operation) {
    let said = operation.description.take().map(|said| format!("{said}\n\n")).unwrap_or_default();
    operation.description = Some(format!("{said}Needs the session's `token`."));
    operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    for (status, codes) in [
        ("401", "`token_missing`, `token_unknown`: unknown, used or expired"),
        ("403", "`token_for_another_call`, `token_for_another_origin`"),
        ("408", "`request_timeout`"),
    ] {
        say_problem(operation, status, codes);
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
    use serde_json::Value;

    use super::*;

    fn described() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    /// The contract: method, path and scope of every route.
    #[test]
    fn every_route_is_described_with_its_scope() {
        let document = described();
        let paths = document["paths"].as_object().unwrap().iter();
        let mut described: Vec<String> = paths
            .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, of)| (path, method, of)))
            .map(|(path, method, of)| {
                let scope = of["description"].as_str().unwrap().rsplit('`').nth(1).unwrap();
                format!("{method} {path} {scope}")
            })
            .collect();
        described.sort();
        let expected = [
            "delete /v1/calls/{call_id}/webrtc/{session} token",
            "delete /v1/prompts/{name} admin",
            "delete /v1/queued_calls/{call_id} calls:write",
            "delete /v1/recordings/{recording_id} admin",
            "get /v1/agent agent:QUEUE",
            "get /v1/agent/events agent:QUEUE",
            "get /v1/agents calls:read",
            "get /v1/calls calls:read",
            "get /v1/calls/{call_id} calls:read",
            "get /v1/calls/{call_id}/media token",
            "get /v1/dead_letters admin",
            "get /v1/events calls:read",
            "get /v1/permissions/{user} calls:read",
            "get /v1/prompts calls:read",
            "get /v1/queued_calls calls:read",
            "get /v1/queued_calls/{call_id} calls:read",
            "get /v1/queues calls:read",
            "get /v1/recordings recordings:read",
            "get /v1/recordings/{recording_id} recordings:read",
            "get /v1/routes calls:read",
            "patch /v1/calls/{call_id}/webrtc/{session} token",
            "post /v1/agent/calls/{call_id}/answer agent:QUEUE",
            "post /v1/agent/calls/{call_id}/decline agent:QUEUE",
            "post /v1/calls calls:write",
            "post /v1/calls/{call_id}/actions calls:write",
            "post /v1/calls/{call_id}/actions/{action} calls:write",
            "post /v1/calls/{call_id}/media_tokens calls:write",
            "post /v1/calls/{call_id}/webrtc token",
            "post /v1/calls/{call_id}/webrtc_tokens calls:write",
            "post /v1/dead_letters/replay admin",
            "post /v1/permissions/requests calls:write",
            "put /v1/agent/availability agent:QUEUE",
            "put /v1/prompts/{name} admin",
        ];
        assert_eq!(described, expected);
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
    fn every_route_needs_a_key_or_token_and_describes_the_errors_of_a_wrong_one() {
        let document = described();
        assert_eq!(document["security"][0]["key"], Value::Array(Vec::new()));
        let operations = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
        for (method, operation) in operations {
            let of_token = operation["security"][0]["token"].is_array();
            let statuses = ["401", "403", "408", "429"];
            for status in &statuses[..if of_token { 3 } else { 4 }] {
                assert!(operation["responses"][status].is_object(), "{method} {operation} {status}");
            }
        }
    }
}
