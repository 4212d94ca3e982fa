"""Twilio's REST client, whose requests go to Patchcord: the methods that apps use, one for each line on stdin."""

import json
import os
import sys

from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client


client = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
client.api.base_url = os.environ["PATCHCORD_URL"]
ASKED = {
    "list": lambda sid: [call.sid for call in client.calls.list(status="in-progress")],
    "fetch": lambda sid: shown(client.calls(sid).fetch()),
    "play": lambda sid: shown(client.calls(sid).update(twiml="<Response><Play>prompt:goodbye</Play></Response>")),
    "redirect": lambda sid: shown(client.calls(sid).update(url=os.environ["APP_URL"] + "/voice", method="POST")),
    "hangup": lambda sid: shown(client.calls(sid).update(status="completed")),
    "place": lambda to: shown(
        client.calls.create(to=to, from_="+12025550199", url=os.environ["APP_URL"] + "/voice", timeout=20)
    ),
}


def shown(call) -> dict:
    return {"sid": call.sid, "status": call.status, "direction": call.direction, "created": call.date_created.isoformat()}


for line in sys.stdin:
    method, argument = line.split()
    try:
        answer = ASKED[method](argument)
    except TwilioRestException as error:
        answer = {"code": error.code, "status": error.status}
    print(json.dumps(answer), flush=True)
