"""A Pipecat bot that takes Patchcord's calls as it takes those of Twilio, Telnyx, Plivo, Exotel, Vonage and Asterisk.

It says a tone, hears the caller, interrupts itself at the key #, and hangs up at *. The tone stands for your speech
recognition, model and voice; all the rest may stay.
"""

import os

import numpy as np
import uvicorn
from fastapi import FastAPI, WebSocket
from pipecat.frames import frames
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.exotel import ExotelFrameSerializer
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.serializers.vonage import VonageFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

RATE = 16_000
SERIALIZERS = {
    "twilio": TwilioFrameSerializer, "telnyx": TelnyxFrameSerializer,
    "plivo": PlivoFrameSerializer, "exotel": ExotelFrameSerializer,
}  # fmt: skip
app = FastAPI()


class Talk(FrameProcessor):
    heard, says_next = b"", None

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, frames.StartFrame):
            await self.say(700)
        elif isinstance(frame, frames.InputDTMFFrame):
            await self.pressed(frame.button.value)
        elif isinstance(frame, frames.BotStoppedSpeakingFrame) and self.says_next:
            await self.say(self.says_next)
            self.says_next = None
        elif isinstance(frame, frames.InputAudioRawFrame):
            self.heard += frame.audio
            if len(self.heard) >= RATE:  # half a second
                spectrum = np.abs(np.fft.rfft(np.frombuffer(self.heard[:RATE], np.int16)))
                print("hears", 2 * spectrum.argmax() if spectrum.max() > 1e5 else 0, "Hz", flush=True)
                self.heard = b""

    async def pressed(self, key):
        print("key", key, flush=True)
        self.says_next = 900 if key == "#" else None
        if key in "#*":
            await self.broadcast_interruption()  # reaches Patchcord as `clear` or `clearAudio`
        if key == "*":
            await self.push_frame(frames.EndWorkerFrame())

    async def say(self, hertz):
        tone = 10_000 * np.sin(2 * np.pi * hertz * np.arange(8 * RATE) / RATE)
        await self.push_frame(frames.TTSAudioRawFrame(tone.astype(np.int16).tobytes(), RATE, 1))


async def talk(websocket, platform, serializer, transport_of=FastAPIWebsocketTransport):
    # Two seconds a message, which come ahead of time: Patchcord paces, and `clear` drops what it holds.
    sound = {"audio_in_enabled": True, "audio_out_enabled": True, "audio_out_10ms_chunks": 200}
    transport = transport_of(websocket, FastAPIWebsocketParams(serializer=serializer, **sound))
    pipeline = Pipeline([transport.input(), Talk(), transport.output()])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE))

    @transport.event_handler("on_client_disconnected")
    async def left(transport, websocket):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
    print(platform, "call is over", flush=True)


@app.websocket("/ws")
async def any_of_four(websocket: WebSocket):
    await websocket.accept()
    platform, call = await parse_telephony_websocket(websocket)
    print(platform, "call from", call.from_number, flush=True)
    kind, encodings = SERIALIZERS[platform], (call.outbound_encoding, "PCMU") if platform == "telnyx" else ()
    # With Twilio's REST API at Patchcord the bot hangs up by it. Elsewhere it closes the WebSocket.
    has_rest = platform == "twilio" and "TWILIO_BASE_URL" in os.environ
    account = {key: os.environ.get(f"TWILIO_{key.upper()}") for key in ("account_sid", "auth_token", "base_url")}
    rest = account | {"call_sid": call.call_id} if has_rest else {}
    params = kind.InputParams(auto_hang_up=has_rest)
    await talk(websocket, platform, kind(call.stream_id, *encodings, params=params, **rest))


@app.websocket("/vonage")
async def vonage(websocket: WebSocket):
    await websocket.accept()
    await talk(websocket, "vonage", VonageFrameSerializer())


@app.websocket("/asterisk")
async def asterisk(websocket: WebSocket):
    # A package of its own, pipecat-asterisk, which takes slin alone.
    from pipecat_asterisk.serializer import AsteriskFrameSerializer
    from pipecat_asterisk.transport import AsteriskWebsocketTransport

    await websocket.accept("media")
    await talk(websocket, "asterisk", AsteriskFrameSerializer(), AsteriskWebsocketTransport)


uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", 8765)))
