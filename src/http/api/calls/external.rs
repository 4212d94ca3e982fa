//! `POST /v1/calls` with `"signaling": "external"`: a call whose app exchanges the messages with Meta itself.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use patchcord_media::sdp::Offer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::Api;
use super::super::auth::Caller;
use super::order::{self, USUAL_RING, order_body};
use super::placing::{PlaceCall, invalid};
use super::problem;
use super::view::CallView;
use crate::call::description::{CallDirection, WhatsAppUser};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::signaling::Signaling;
use crate::calls::origin::{ExternalCall, ExternalDirection};
use crate::calls::{ExternalOrder, NotTaken};
use crate::http::error::ApiError;
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// The longest text about a person or a number, in characters.
const MAX_TEXT: usize = 256;

/// A call to be placed, or one that your app signals.
#[derive(ToSchema)]
#[schema(as = NewCall)]
#[serde(untagged)]
#[expect(dead_code, reason = "used by the OpenAPI document only")]
pub(in crate::http::api) enum NewCall {
    Placed(PlaceCall),
    External(SignaledCall),
}

order_body! {
    /// A call that your app signals: it keeps Meta's webhooks and requests for itself.
    SignaledCall {
        /// `external`.
        #[serde(rename = "signaling")]
        #[schema(inline)]
        _signaling: ExternalName,
        /// `user_initiated`, the default, or `business_initiated`.
        #[schema(inline, value_type = Option<DirectionName>)]
        direction: Option<String>,
        /// Meta's id of a call that the user placed. Of a call that you place, report it with `answer` or `accepted`.
        #[schema(max_length = 512, min_length = 1)]
        wacid: Option<String>,
        /// Meta's SDP offer, of a call that the user placed.
        offer: Option<String>,
        /// The person on WhatsApp, as far as you know.
        #[schema(inline)]
        from: Option<Person>,
        /// The business number. Its id may be left out if exactly one number is configured.
        #[schema(inline)]
        to: Option<BusinessNumber>,
    }
}

/// Who exchanges the messages with Meta.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ExternalName {
    External,
}

/// Who placed the call.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "used by the OpenAPI document only")]
enum DirectionName {
    UserInitiated,
    BusinessInitiated,
}

/// The person on WhatsApp.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Person {
    /// The phone number in digits.
    #[schema(max_length = 256)]
    wa_id: Option<String>,
    /// The business-scoped user id.
    #[schema(max_length = 256)]
    user_id: Option<String>,
    #[schema(max_length = 256)]
    name: Option<String>,
}

/// The business number.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BusinessNumber {
    /// Meta's id. The number need not be configured.
    #[schema(example = "200000000000002", pattern = "^[0-9]{1,32}$")]
    phone_number_id: Option<String>,
    /// The number as people write it.
    #[schema(max_length = 256)]
    display_phone_number: Option<String>,
}

/// A new call. One that your app signals has our SDP for Meta.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct NewCallView {
    #[serde(flatten)]
    call: CallView,
    /// Our SDP answer to Meta's offer: the `session` of your `pre_accept`, and byte for byte of your `accept`.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// Our SDP offer: the `session` of your `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    offer: Option<String>,
}

impl NewCallView {
    pub(super) fn placed(call: CallView) -> Self {
        Self { call, answer: None, offer: None }
    }
}

/// Who signals the call that a body orders. The key is removed unless it says `external`.
pub(super) fn signaling_of(body: &mut Map<String, Value>) -> Result<Signaling, Refusal> {
    let signaling = match body.get("signaling") {
        None => return Ok(Signaling::Graph),
        Some(value) => value.as_str().and_then(Signaling::of_name),
    };
    match signaling {
        Some(Signaling::External) => Ok(Signaling::External),
        Some(Signaling::Graph) => {
            body.remove("signaling");
            Ok(Signaling::Graph)
        }
        None => Err(invalid("signaling: give \"graph\" or \"external\"".to_owned())),
    }
}

/// Takes a call that the app signals.
pub(super) async fn take(
    api: &Api,
    caller: &Caller,
    body: Map<String, Value>,
) -> Result<(StatusCode, Json<NewCallView>), ApiError> {
    let given: SignaledCall =
        serde_json::from_value(Value::Object(body)).map_err(|error| problem(invalid(error.to_string()), None))?;
    let order = given.read().map_err(|refusal| problem(refusal, None))?;
    let is_placed = matches!(order.call.direction, ExternalDirection::BusinessInitiated { .. });
    let taken = api.options.calls.take_external(order, caller.hosts()).await;
    let (call, sdp) = taken.map_err(|NotTaken { refusal, in_the_way }| ApiError {
        call_id: in_the_way.map(|call| call.to_string()),
        ..problem(refusal, None)
    })?;
    let sdp = Some(sdp.as_ref().to_owned());
    let (answer, offer) = if is_placed { (None, sdp) } else { (sdp, None) };
    Ok((StatusCode::CREATED, Json(NewCallView { call: CallView::of_live(&call), answer, offer })))
}

impl SignaledCall {
    fn read(mut self) -> Result<ExternalOrder, Refusal> {
        let common = self.take_common().map_err(invalid)?;
        let (person, number) = (self.from.unwrap_or_default(), self.to.unwrap_or_default());
        let phone_number_id = number.phone_number_id.as_deref().map(PhoneNumberId::parse).transpose();
        let usual = CallDirection::UserInitiated.name().to_owned();
        let direction = match CallDirection::of_name(&self.direction.unwrap_or(usual)) {
            Some(CallDirection::UserInitiated) => offered(self.wacid, self.offer, common.ring_timeout)?,
            Some(CallDirection::BusinessInitiated) if self.wacid.is_some() || self.offer.is_some() => {
                let advice = "offer: the offer is ours in a call that you place; report wacid with answer or accepted";
                return Err(invalid(advice.to_owned()));
            }
            Some(CallDirection::BusinessInitiated) => {
                ExternalDirection::BusinessInitiated { ring_timeout: common.ring_timeout.unwrap_or(USUAL_RING) }
            }
            None => return Err(invalid("direction: give user_initiated or business_initiated".to_owned())),
        };
        Ok(ExternalOrder {
            call: ExternalCall {
                direction,
                user: WhatsAppUser {
                    wa_id: short("from.wa_id", person.wa_id)?,
                    user_id: short("from.user_id", person.user_id)?,
                    name: short("from.name", person.name)?,
                },
                display_phone_number: short("to.display_phone_number", number.display_phone_number)?,
                tracker: common.tracker,
            },
            phone_number_id: phone_number_id
                .map_err(|_| invalid("to.phone_number_id: give Meta's id, in digits".to_owned()))?,
            agents: common.agents,
            parameters: common.parameters,
            client_state: common.client_state,
        })
    }
}

fn offered(
    wacid: Option<String>,
    offer: Option<String>,
    ring_timeout: Option<Duration>,
) -> Result<ExternalDirection, Refusal> {
    let advice = "wacid: give Meta's id of the call";
    let wacid = WaCallId::parse(&wacid.unwrap_or_default()).map_err(|_| invalid(advice.to_owned()))?;
    let Some(offer) = offer else {
        return Err(invalid("offer: give the SDP of Meta's connect webhook".to_owned()));
    };
    if ring_timeout.is_some() {
        return Err(invalid("ring_timeout: only a call that you place has one".to_owned()));
    }
    let refused = |error| Refusal::new(RefusalCode::OfferRefused, format!("offer: {error}"));
    Ok(ExternalDirection::UserInitiated { wacid, offer: Box::new(Offer::parse(&offer).map_err(refused)?) })
}

fn short(key: &str, text: Option<String>) -> Result<Option<String>, Refusal> {
    match text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT) {
        true => Err(invalid(format!("{key}: give at most {MAX_TEXT} characters"))),
        false => Ok(text),
    }
}
