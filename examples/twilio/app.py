"""A Twilio Voice app: a menu in TwiML, and behind key 1 a media stream that echoes. In the stream key 1 repeats the last half
second for eight seconds, an octave higher, # stops that, and * hangs up. Nothing in it is about Patchcord."""

import base64
import json
import os

from aiohttp import WSMsgType, web
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, Gather, VoiceResponse

PUBLIC = os.environ["TWILIO_PUBLIC_BASE_URL"]  # such as https://bot.example.com
SOCKETS = PUBLIC.replace("http", "ws", 1)
validator = RequestValidator(os.environ["TWILIO_AUTH_TOKEN"])
routes = web.RouteTableDef()


@web.middleware
async def only_twilio(request: web.Request, handler) -> web.StreamResponse:
    """Refuses what Twilio, or Patchcord in its place, has not signed: forms, and the upgrade of the stream."""
    base = SOCKETS if request.headers.get("Upgrade", "").lower() == "websocket" else PUBLIC
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
        response.redirect("/talk")
    response.play("prompt:goodbye")
    return twiml(response)


@routes.post("/talk")
async def talk(_request: web.Request) -> web.Response:
    connect = Connect()
    stream = connect.stream(url=SOCKETS + "/media", status_callback=PUBLIC + "/status")
    stream.parameter(name="plan", value="gold")
    response = VoiceResponse()
    response.append(connect)
    return twiml(response)


@routes.post("/status")
async def status(request: web.Request) -> web.Response:
    print((await request.post())["StreamEvent"], flush=True)
    return web.Response()


@routes.get("/media")
async def media(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    heard, is_repeating = bytearray(), False

    async def send(event: str, **more) -> None:
        await socket.send_json({"event": event, "streamSid": message["streamSid"]} | more)

    async for frame in socket:
        if frame.type != WSMsgType.TEXT:
            break
        message = json.loads(frame.data)
        match message["event"]:
            case "start":
                print("start", message["start"]["callSid"], json.dumps(message["start"]["customParameters"]), flush=True)
            case "media":
                heard = (heard + base64.b64decode(message["media"]["payload"]))[-4000:]
                if not is_repeating:
                    await send("media", media={"payload": message["media"]["payload"]})
            case "dtmf":
                digit = message["dtmf"]["digit"]
                print("key", digit, flush=True)
                if digit == "1":
                    is_repeating = True
                    await send("media", media={"payload": base64.b64encode(heard[::2] * 32).decode()})
                    await send("mark", mark={"name": "repeated"})
                elif digit == "#":
                    await send("clear")
                elif digit == "*":
                    await socket.close()
            case "mark":
                print("mark", message["mark"]["name"], flush=True)
                is_repeating = False
            case "stop":
                print("stop", flush=True)
    return socket


if __name__ == "__main__":
    app = web.Application(middlewares=[only_twilio])
    app.add_routes(routes)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "5000")))
