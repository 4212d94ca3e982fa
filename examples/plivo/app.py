"""An app on Plivo's own stream SDK that takes Patchcord's calls.

It says one tone, hears the caller, says another at the key #, and hangs up at *. The tone stands for your own audio; all
the rest may stay.
"""

import os

import numpy as np
import uvicorn
from fastapi import FastAPI, WebSocket
from plivo_stream import PlivoFastAPIStreamingHandler

app = FastAPI()


def tone(hertz, seconds, rate):
    return (10_000 * np.sin(2 * np.pi * hertz * np.arange(seconds * rate) / rate)).astype("<i2").tobytes()


def linear(mulaw):
    bits = ~np.frombuffer(mulaw, np.uint8).astype(int)
    return np.where(bits & 128, -1, 1) * ((((bits & 15) << 3) + 132 << (bits >> 4 & 7)) - 132)


@app.websocket("/stream")
async def stream(websocket: WebSocket):
    plivo, stream, heard = PlivoFastAPIStreamingHandler(websocket), None, []

    async def say(hertz, seconds):
        # All at once: Patchcord paces, and the checkpoint comes back when its place was heard.
        await plivo.send_media(tone(hertz, seconds, stream.sample_rate), "audio/x-l16", stream.sample_rate)
        await plivo.send_checkpoint(f"{hertz} Hz")

    @plivo.on_start
    async def start(event):
        nonlocal stream
        stream = event.start.media_format
        print("call", event.start.call_id, "in", stream.encoding, stream.sample_rate, event.extra_headers, flush=True)
        await say(700, seconds=8)

    @plivo.on_media
    async def media(event):
        sound = event.get_raw_media()
        heard.append(linear(sound) if stream.encoding == "audio/x-mulaw" else np.frombuffer(sound, "<i2"))
        if len(heard) == 25:  # half a second
            spectrum = np.abs(np.fft.rfft(np.concatenate(heard)))
            print("hears", 2 * spectrum.argmax() if spectrum.max() > 1e5 else 0, "Hz", flush=True)
            heard.clear()

    @plivo.on_dtmf
    async def dtmf(event):
        print("key", event.dtmf.digit, flush=True)
        if event.dtmf.digit == "#":
            await plivo.send_clear_audio()
        elif event.dtmf.digit == "*":
            await plivo.stop()

    @plivo.on_cleared_audio
    async def cleared(event):
        print("cleared", flush=True)
        await say(900, seconds=1)

    @plivo.on_played_stream
    async def played(event):
        print("played", event.name, flush=True)

    @plivo.on_error
    async def error(error):
        print("error", error, flush=True)

    @plivo.on_disconnected
    async def disconnected():
        print("call is over", flush=True)

    await plivo.start()


uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", 8766)))
