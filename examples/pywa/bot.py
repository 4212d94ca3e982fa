"""A pywa bot whose calls have sound: pywa keeps Meta's webhooks and requests, Patchcord carries the media.

Run it with `uvicorn bot:app`; docs/pywa.md walks through it.
"""

import os

import httpx
from fastapi import BackgroundTasks, FastAPI, Request
from pywa import WhatsApp, filters
from pywa.types import CallPermissionRequestButton
from pywa.types.calls import SessionDescription
from standardwebhooks import Webhook

PHONE_ID, BLOCKED = os.environ["PHONE_NUMBER_ID"], os.environ.get("BLOCKED", "").split()
app = FastAPI()
wa = WhatsApp(server=app, phone_id=PHONE_ID, token=os.environ["WHATSAPP_TOKEN"], webhook_endpoint="/whatsapp",
              app_secret=os.environ["APP_SECRET"], verify_token=os.environ["VERIFY_TOKEN"])
patchcord = httpx.Client(base_url=os.environ["PATCHCORD_URL"] + "/v1",
                         headers={"Authorization": f"Bearer {os.environ['PATCHCORD_KEY']}"})
calls = {}  # by Patchcord's id: Meta's id, and our SDP for it
ids = {}  # by Meta's id: Patchcord's


def take(person, **fields):
    ours = {"signaling": "external", "from": person, "to": {"phone_number_id": PHONE_ID}, "route": "reception"}
    return patchcord.post("/calls", json=ours | fields)


def report(call_id, action, **fields):
    patchcord.post(f"/calls/{call_id}/actions/{action}", json=fields)


@wa.on_call_connect(filters.incoming_call & filters.new(lambda _, call: call.from_user.wa_id in BLOCKED), priority=1)
def reject(_, call):
    call.reject()


@wa.on_call_connect(filters.incoming_call)
def answer(_, call):
    person = {"wa_id": call.from_user.wa_id, "name": call.from_user.name}
    taken = take(person, wacid=call.id, offer=call.session.sdp)
    if taken.status_code == 201:
        call_id, sdp = taken.json()["id"], SessionDescription(sdp_type="answer", sdp=taken.json()["answer"])
        ids[call.id], calls[call_id] = call_id, (call.id, sdp)
        call.pre_accept(sdp=sdp)
    elif taken.json()["code"] != "wacid_in_use":  # Meta repeats its webhooks
        call.reject()


@wa.on_call_terminate
def terminated(_, call):
    if call_id := ids.get(call.id):
        error = call.error and call.error.error_code
        report(call_id, "terminated", status=call.status, duration=call.duration, error_code=error)


@wa.on_message(filters.matches("call me", ignore_case=True))
def ask(_, message):
    message.reply("May we call you?", buttons=CallPermissionRequestButton())


@wa.on_call_permission_update
def place(_, permission):
    if permission:
        person = {"wa_id": permission.from_user.wa_id}
        call = take(person, direction="business_initiated").json()
        session = {"sdp_type": "offer", "sdp": call["offer"]}
        # initiate_call() wants a `success` in Meta's reply, which need not be there.
        wa.api.initiate_call(PHONE_ID, person["wa_id"], None, session, biz_opaque_callback_data=call["id"])


@wa.on_raw_update  # on_call_status() wants `contacts`, which Meta leaves out of statuses
def progress(_, update):
    value = update["entry"][0]["changes"][0]["value"]
    connects = [call for call in value.get("calls", []) if call["event"] == "connect" and "biz_opaque_callback_data" in call]
    for step in connects + value.get("statuses", []):
        call_id = ids[step["id"]] = step["biz_opaque_callback_data"]
        calls[call_id] = step["id"], None
        if "session" in step:
            report(call_id, "answer", answer=step["session"]["sdp"], wacid=step["id"])
        elif step["status"] in ("RINGING", "ACCEPTED"):
            report(call_id, step["status"].lower(), wacid=step["id"])


@app.post("/patchcord")
async def events(request: Request, later: BackgroundTasks):
    event = Webhook(os.environ["EVENTS_SECRET"]).verify(await request.body(), dict(request.headers))
    later.add_task(happened, event["type"], event["call_id"], event["data"])


def happened(kind, call_id, data):
    wacid, sdp = calls.get(call_id, (None, None))
    if kind == "call.ready_to_accept":  # media are up and the agent listens: the first word is heard
        wa.accept_call(wacid, sdp, tracker=call_id)
        report(call_id, "accepted")
    elif kind == "call.ended" and data["terminate_at_meta"] and wacid:
        wa.terminate_call(wacid)
