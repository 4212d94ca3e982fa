"""An app written for Vonage's Voice API, on its SDK, that takes Patchcord's calls.

Its answer webhook connects to its WebSocket, with ?welcome=yes behind a sound. There it says one tone, hears the caller, says another for a
second at the key #, and hangs up at *. The tones stand for your own audio; all the rest may stay.
"""

import io
import json
import os
import wave

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from vonage_voice.models import AnswerWebhook, Connect, Stream, WebsocketEndpoint

RATE = 24_000
FRAME = RATE // 50 * 2
"""Bytes of 20 ms: Vonage takes no other messages of audio."""
app = FastAPI()


def tone(hertz, seconds):
    return (10_000 * np.sin(2 * np.pi * hertz * np.arange(seconds * RATE) / RATE)).astype("<i2").tobytes()


@app.get("/webhooks/answer")
async def answer(request: Request):
    call = AnswerWebhook(**request.query_params)
    print("answer", call.from_, "calls", call.to, call.uuid, flush=True)
    host, kind = request.headers["host"], f"audio/l16;rate={RATE}"
    headers = {"caller": call.from_, "uuid": call.uuid}
    endpoint = WebsocketEndpoint(uri=f"ws://{host}/socket", contentType=kind, headers=headers)
    ncco = [Connect(endpoint=[endpoint], from_="447700900000")]
    if "welcome" in request.query_params:
        ncco.insert(0, Stream(streamUrl=[f"http://{host}/welcome.wav"]))
    return [action.model_dump(by_alias=True, exclude_none=True) for action in ncco]


@app.get("/welcome.wav")
async def welcome():
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        sound.writeframes(tone(1200, seconds=1))
    return Response(file.getvalue(), media_type="audio/wav")


@app.websocket("/socket")
async def socket(websocket: WebSocket):
    heard = b""

    async def say(hertz, seconds):
        # All at once: Vonage and Patchcord pace, and `notify` comes back when its place was heard.
        sound = tone(hertz, seconds)
        for at in range(0, len(sound), FRAME):
            await websocket.send_bytes(sound[at : at + FRAME])
        await websocket.send_json({"action": "notify", "payload": {"said": hertz}})

    await websocket.accept()
    try:
        connected = await websocket.receive_json()
        print("connected", connected["content-type"], "caller", connected["caller"], flush=True)
        await say(700, seconds=8)
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect
            if sound := message.get("bytes"):
                heard += sound
                if len(heard) >= RATE:  # half a second
                    spectrum = np.abs(np.fft.rfft(np.frombuffer(heard[:RATE], "<i2")))
                    print("hears", 2 * spectrum.argmax() if spectrum.max() > 1e5 else 0, "Hz", flush=True)
                    heard = b""
                continue
            event = json.loads(message["text"])
            if event["event"] == "websocket:dtmf":
                print("key", event["digit"], flush=True)
                if event["digit"] == "#":
                    await websocket.send_json({"action": "clear"})
                elif event["digit"] == "*":
                    break
            elif event["event"] == "websocket:cleared":
                print("cleared", flush=True)
                await say(900, seconds=1)
            elif event["event"] == "websocket:notify":
                print("said", event["payload"]["said"], "Hz", flush=True)
        await websocket.close()
    except WebSocketDisconnect:
        pass
    print("call is over", flush=True)


uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", 8768)))
