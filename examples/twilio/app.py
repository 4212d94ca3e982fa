"""A Twilio Voice app: a menu in TwiML, and behind key 1 a media stream that echoes. Nothing in it is about Patchcord."""

import json
import os

from aiohttp import WSMsgType, web
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, Gather, VoiceResponse

PUBLIC = os.environ["TWILIO_PUBLIC_BASE_URL"]  # such as https://bot.example.com
validator = RequestValidator(os.environ["TWILIO_AUTH_TOKEN"])
routes = web.RouteTableDef()


@web.middleware
async def only_twilio(request: web.Request, handler) -> web.StreamResponse:
    """Refuses what Twilio, or Patchcord in its place, has not signed: forms, and the upgrade of the stream."""
    is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
    base = PUBLIC.replace("http", "ws", 1) if is_socket else PUBLIC
    form = dict(await request.post())
    if not validator.validate(base + request.path_qs, form, request.headers.get("X-Twilio-Signature", "")):
        raise web.HTTPForbidden
    return await handler(request)


def twiml(response: VoiceResponse) -> web.Response:
    return web.Response(text=str(response), content_type="text/xml")


@routes.post("/voice")
async def voice(request: web.Request) -> web.Response:
    form = await request.post()
    print("voice", form["CallSid"], form["CallStatus"], flush=True)
    response = VoiceResponse()
    menu = Gather(num_digits=1, timeout=5, action="/menu")
    menu.play("prompt:beep")
    response.append(menu)
    response.redirect("/voice")
    return twiml(response)


@routes.post("/menu")
async def menu(request: web.Request) -> web.Response:
    digits = (await request.post())["Digits"]
    print("menu", digits, flush=True)
    response = VoiceResponse()
    if digits == "1":
        connect = Connect()
        connect.stream(url=PUBLIC.replace("http", "ws", 1) + "/media").parameter(name="plan", value="gold")
        response.append(connect)
    response.play("prompt:goodbye")
    return twiml(response)


@routes.get("/media")
async def media(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type != WSMsgType.TEXT:
            break
        event = json.loads(message.data)
        if event["event"] == "start":
            print("start", event["start"]["callSid"], event["start"]["customParameters"], flush=True)
        elif event["event"] == "media":
            echo = {"event": "media", "streamSid": event["streamSid"], "media": {"payload": event["media"]["payload"]}}
            await socket.send_json(echo)
        elif event["event"] == "stop":
            print("stop", flush=True)
    return socket


if __name__ == "__main__":
    app = web.Application(middlewares=[only_twilio])
    app.add_routes(routes)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "5000")))
