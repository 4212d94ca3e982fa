"""A stand-in for OpenAI's Realtime API whose events are the types of OpenAI's own package, in both directions.

An event of the client that these types do not know, or that has a field unknown to them, is printed as a mistake. It says a
tone when asked for a response. It finds that the caller speaks after the key 1, or with INTERRUPT_AFTER after so many half
seconds, and says another tone once it is told how much of the first was heard. After 9 it calls the function `hangup`.
"""

import asyncio
import base64
import json
import os

import numpy as np
import websockets
from galcymedia import pcm
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

INTERRUPT_AFTER = int(os.environ.get("INTERRUPT_AFTER", 0))
CLIENT, SERVER = TypeAdapter(RealtimeClientEvent), TypeAdapter(RealtimeServerEvent)
GREETING, ANSWER = 700, 900


def unknown(value, path=""):
    """The fields of an event that its type does not have."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in value.model_fields_set:
            yield from unknown(getattr(value, name, None), f"{path}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown(item, f"{path}[{number}]")


class Session:
    def __init__(self, socket):
        self._socket, self._events, self._heard, self._half_seconds = socket, 0, [], 0
        self._rate, self._is_mulaw, self._greeted = 24_000, False, False

    async def send(self, **event):
        self._events += 1
        event["event_id"] = f"event_{self._events}"
        mistakes = list(unknown(SERVER.validate_python(event)))
        if mistakes:
            raise ValueError(f"our own {event['type']} has unknown fields: {mistakes}")
        await self._socket.send(json.dumps(event))

    async def say(self, item, hertz, seconds):
        """In pieces of 100 ms, faster than real time, as the model does."""
        tone = (10_000 * np.sin(2 * np.pi * hertz * np.arange(seconds * self._rate) / self._rate)).astype("<i2").tobytes()
        response = {"object": "realtime.response", "id": f"resp_{item}", "output": [], "output_modalities": ["audio"]}
        place = {"response_id": response["id"], "item_id": item, "output_index": 0, "content_index": 0}
        await self.send(type="response.created", response=response | {"status": "in_progress"})
        for at in range(0, len(tone), self._rate // 5):
            piece = tone[at : at + self._rate // 5]
            delta = base64.b64encode(pcm.pcm_to_ulaw(piece) if self._is_mulaw else piece).decode()
            await self.send(type="response.output_audio.delta", delta=delta, **place)
        await self.send(type="response.output_audio.done", **place)
        await self.send(type="response.done", response=response | {"status": "completed"})

    async def run(self):
        print("session with", self._socket.request.path, flush=True)
        await self.send(type="session.created", session={"type": "realtime"})
        async for message in self._socket:
            event = json.loads(message)
            try:
                mistakes = list(unknown(CLIENT.validate_python(event)))
            except ValidationError as error:
                mistakes = [str(error)]
            if mistakes:
                print("mistake in", event["type"], mistakes, flush=True)
            if event["type"] == "input_audio_buffer.append":
                await self.hear(base64.b64decode(event["audio"]))
            else:
                print("event", json.dumps(event), flush=True)
                await self.answer(event)

    async def hear(self, sound):
        self._heard += [pcm.ulaw_to_pcm(sound) if self._is_mulaw else sound]
        heard = b"".join(self._heard)
        if len(heard) >= self._rate:
            spectrum = np.abs(np.fft.rfft(np.frombuffer(heard[: self._rate], "<i2")))
            print("hears", 2 * spectrum.argmax() if spectrum.max() > 1e5 else 0, "Hz", flush=True)
            self._heard, self._half_seconds = [], self._half_seconds + 1
            if self._half_seconds == INTERRUPT_AFTER:
                await self.interrupt()

    async def interrupt(self):
        await self.send(type="input_audio_buffer.speech_started", audio_start_ms=1000, item_id="item_2")

    async def answer(self, event):
        text = json.dumps(event)
        if event["type"] == "session.update":
            if "audio" in event["session"]:
                self._is_mulaw = event["session"]["audio"]["output"]["format"]["type"] == "audio/pcmu"
                self._rate = 8000 if self._is_mulaw else 24_000
            await self.send(type="session.updated", session=event["session"])
        elif event["type"] == "response.create" and not self._greeted:
            self._greeted = True
            await self.say("item_1", GREETING, 8)
        elif "the key 1" in text:
            await self.interrupt()
        elif event["type"] == "conversation.item.truncate":
            answer = {key: event[key] for key in ("item_id", "content_index", "audio_end_ms")}
            await self.send(type="conversation.item.truncated", **answer)
            await self.say("item_3", ANSWER, 1)
        elif "the key 9" in text:
            place = {"response_id": "resp_2", "item_id": "item_4", "output_index": 0}
            await self.send(type="response.function_call_arguments.done", call_id="call_1", name="hangup", arguments="{}", **place)


async def serve(socket):
    try:
        await Session(socket).run()
    except websockets.ConnectionClosed:
        pass
    print("session is over", flush=True)


async def main():
    async with websockets.serve(serve, "127.0.0.1", int(os.environ["PORT"])):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
