"""Stand-ins for speech models whose messages are the types of the vendors' own packages, in both directions.

A message of ours that these types do not know, or that has a field unknown to them, is printed as a mistake. Each says a tone as
its greeting. It finds that the caller speaks after the key 1, or with INTERRUPT_AFTER after so many half seconds, and then says
another tone; after 5 and 9 it calls the functions `send_dtmf` and `hangup`. The first argument is the vendor. With `check FILE` it only checks the messages in a file.
"""

import asyncio
import base64
import functools
import json
import os
import sys

import numpy as np
import websockets
from deepgram.agent.v1 import types as deepgram
from galcymedia import pcm
from google.genai import types as gemini
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

INTERRUPT_AFTER = int(os.environ.get("INTERRUPT_AFTER", 0))
GREETING, ANSWER = 700, 900


def unknown(value, path=""):
    """The fields of a message that its type does not have."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in value.model_fields_set:
            yield from unknown(getattr(value, name, None), f"{path}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown(item, f"{path}[{number}]")


# Made once: it takes longer than a message lasts.
adapter = functools.cache(TypeAdapter)


def mistakes(kind, message):
    """What is wrong with a message of this type."""
    try:
        return list(unknown(adapter(kind).validate_python(message)))
    except ValidationError as error:
        return [str(error)]


class Session:
    """A conversation. The vendors' own are below."""

    server_type = None
    """Of every message to the client, if there is one for all."""
    rate, is_mulaw = 24_000, False

    def __init__(self, socket):
        self.socket, self._heard, self._half_seconds = socket, [], 0

    async def run(self):
        print("session with", self.socket.request.path, flush=True)
        await self.hello()
        async for message in self.socket:
            await (self.hear(message) if isinstance(message, bytes) else self.read(json.loads(message)))

    async def hello(self):
        pass

    async def send(self, message):
        if wrong := mistakes(self.server_type or self.TO_CLIENT[message["type"]], message):
            raise ValueError(f"our own {message}: {wrong}")
        await self.socket.send(json.dumps(message))

    def note(self, kind, message):
        """Prints a message of the client, and what is wrong with it."""
        if wrong := mistakes(kind, message):
            print("mistake", wrong, "in", json.dumps(message), flush=True)
        print("event", json.dumps(message), flush=True)

    async def hear(self, sound):
        self._heard += [pcm.ulaw_to_pcm(sound) if self.is_mulaw else sound]
        heard = b"".join(self._heard)
        if len(heard) >= self.rate:
            spectrum = np.abs(np.fft.rfft(np.frombuffer(heard[: self.rate], "<i2")))
            print("hears", 2 * spectrum.argmax() if spectrum.max() > 1e5 else 0, "Hz", flush=True)
            self._heard, self._half_seconds = [], self._half_seconds + 1
            if self._half_seconds == INTERRUPT_AFTER:
                await self.interrupt()

    def pieces(self, hertz, seconds):
        """A tone in pieces of 100 ms, which go out faster than real time, as the models' do."""
        tone = (10_000 * np.sin(2 * np.pi * hertz * np.arange(seconds * self.rate) / self.rate)).astype("<i2").tobytes()
        for at in range(0, len(tone), self.rate // 5):
            piece = tone[at : at + self.rate // 5]
            yield pcm.pcm_to_ulaw(piece) if self.is_mulaw else piece

    async def press(self, text):
        """Keys come as a text."""
        if "the key 1" in text:
            await self.interrupt()
        elif "the key 5" in text:
            await self.call("send_dtmf", {"digits": "5"})
        elif "the key 9" in text:
            await self.call("hangup", {})


class OpenAi(Session):
    server_type = RealtimeServerEvent
    is_greeted, events = False, 0

    async def hello(self):
        await self.event("session.created", session={"type": "realtime"})

    async def event(self, kind, **fields):
        self.events += 1
        await self.send({"type": kind, "event_id": f"event_{self.events}"} | fields)

    async def read(self, message):
        if message["type"] == "input_audio_buffer.append":
            if wrong := mistakes(RealtimeClientEvent, message):
                print("mistake", wrong, flush=True)
            return await self.hear(base64.b64decode(message["audio"]))
        self.note(RealtimeClientEvent, message)
        if message["type"] == "session.update":
            if "audio" in message["session"]:
                self.is_mulaw = message["session"]["audio"]["output"]["format"]["type"] == "audio/pcmu"
                self.rate = 8000 if self.is_mulaw else 24_000
            await self.event("session.updated", session=message["session"])
        elif message["type"] == "response.create" and not self.is_greeted:
            self.is_greeted = True
            await self.say("item_1", GREETING, 8)
        elif message["type"] == "conversation.item.truncate":
            cut = {key: message[key] for key in ("item_id", "content_index", "audio_end_ms")}
            await self.event("conversation.item.truncated", **cut)
            await self.say("item_3", ANSWER, 1)
        else:
            await self.press(json.dumps(message))

    async def say(self, item, hertz, seconds):
        response = {"object": "realtime.response", "id": f"resp_{item}", "output": [], "output_modalities": ["audio"]}
        place = {"response_id": response["id"], "item_id": item, "output_index": 0, "content_index": 0}
        await self.event("response.created", response=response | {"status": "in_progress"})
        for piece in self.pieces(hertz, seconds):
            await self.event("response.output_audio.delta", delta=base64.b64encode(piece).decode(), **place)
        await self.event("response.output_audio.done", **place)
        await self.event("response.done", response=response | {"status": "completed"})

    async def interrupt(self):
        await self.event("input_audio_buffer.speech_started", audio_start_ms=1000, item_id="item_2")

    async def call(self, name, arguments):
        call = {"response_id": "resp_2", "item_id": "item_4", "output_index": 0, "call_id": f"call_{name}", "name": name}
        await self.event("response.function_call_arguments.done", arguments=json.dumps(arguments), **call)


class Gemini(Session):
    server_type = gemini.LiveServerMessage

    async def read(self, message):
        given = message.get("realtimeInput", {})
        if "audio" in given:
            if wrong := mistakes(gemini.LiveClientMessage, message):
                print("mistake", wrong, flush=True)
            return await self.hear(base64.b64decode(given["audio"]["data"]))
        self.note(gemini.LiveClientMessage, message)
        if "setup" in message:
            await self.send({"setupComplete": {"sessionId": "session_1"}})
        elif given.get("text") == "Greet the caller.":
            await self.say(GREETING, 8)
        else:
            await self.press(json.dumps(given))

    async def say(self, hertz, seconds):
        for piece in self.pieces(hertz, seconds):
            sound = {"inlineData": {"mimeType": f"audio/pcm;rate={self.rate}", "data": base64.b64encode(piece).decode()}}
            await self.send({"serverContent": {"modelTurn": {"role": "model", "parts": [sound]}}})
        counts = {"promptTokenCount": 10, "responseTokenCount": 20, "totalTokenCount": 30}
        await self.send({"serverContent": {"turnComplete": True}, "usageMetadata": counts})

    async def interrupt(self):
        await self.send({"serverContent": {"interrupted": True}})
        await self.say(ANSWER, 1)

    async def call(self, name, arguments):
        await self.send({"toolCall": {"functionCalls": [{"id": f"call_{name}", "name": name, "args": arguments}]}})


class Deepgram(Session):
    FROM_CLIENT = {
        "Settings": deepgram.AgentV1Settings,
        "InjectUserMessage": deepgram.AgentV1InjectUserMessage,
        "FunctionCallResponse": deepgram.AgentV1SendFunctionCallResponse,
        "KeepAlive": deepgram.AgentV1KeepAlive,
    }
    TO_CLIENT = {
        "Welcome": deepgram.AgentV1Welcome,
        "SettingsApplied": deepgram.AgentV1SettingsApplied,
        "UserStartedSpeaking": deepgram.AgentV1UserStartedSpeaking,
        "AgentAudioDone": deepgram.AgentV1AgentAudioDone,
        "FunctionCallRequest": deepgram.AgentV1FunctionCallRequest,
    }

    async def hello(self):
        await self.send({"type": "Welcome", "request_id": "00000000-0000-0000-0000-000000000001"})

    async def read(self, message):
        self.note(self.FROM_CLIENT[message["type"]], message)
        if message["type"] == "Settings":
            await self.send({"type": "SettingsApplied"})
            await self.say(GREETING, 8)
        else:
            await self.press(json.dumps(message))

    async def say(self, hertz, seconds):
        for piece in self.pieces(hertz, seconds):
            await self.socket.send(piece)
        await self.send({"type": "AgentAudioDone"})

    async def interrupt(self):
        await self.send({"type": "UserStartedSpeaking"})
        await self.say(ANSWER, 1)

    async def call(self, name, arguments):
        call = {"id": f"call_{name}", "name": name, "arguments": json.dumps(arguments), "client_side": True}
        await self.send({"type": "FunctionCallRequest", "functions": [call]})


class ElevenLabs(Session):
    """Whose types are TypeScript: elevenlabs/check.mjs reads the messages that are printed here, those of the caller's sound
    without the sound."""

    rate, audio_events, has_heard = 16_000, 0, False

    async def send(self, message):
        said = message | ({"audio_event": message["audio_event"] | {"audio_base_64": ""}} if message["type"] == "audio" else {})
        print("sent", json.dumps(said), flush=True)
        await self.socket.send(json.dumps(message))

    async def read(self, message):
        if "user_audio_chunk" in message:
            if not self.has_heard:
                print("sound", json.dumps(message | {"user_audio_chunk": ""}), flush=True)
                self.has_heard = True
            return await self.hear(base64.b64decode(message["user_audio_chunk"]))
        print("event", json.dumps(message), flush=True)
        if message["type"] == "conversation_initiation_client_data":
            formats = {"agent_output_audio_format": "pcm_16000", "user_input_audio_format": "pcm_16000"}
            metadata = {"conversation_id": "conv_1"} | formats
            await self.send({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": metadata})
            await self.send({"type": "ping", "ping_event": {"event_id": 7, "ping_ms": 20}})
            await self.say(GREETING, 8)
        else:
            await self.press(json.dumps(message))

    async def say(self, hertz, seconds):
        for piece in self.pieces(hertz, seconds):
            self.audio_events += 1
            event = {"audio_base_64": base64.b64encode(piece).decode(), "event_id": self.audio_events}
            await self.send({"type": "audio", "audio_event": event})

    async def interrupt(self):
        await self.send({"type": "interruption", "interruption_event": {"event_id": self.audio_events}})
        await self.say(ANSWER, 1)

    async def call(self, name, arguments):
        call = {"tool_name": name, "tool_call_id": f"call_{name}", "parameters": arguments, "event_id": self.audio_events}
        await self.send({"type": "client_tool_call", "client_tool_call": call})


VENDORS = {"openai": OpenAi, "gemini": Gemini, "deepgram": Deepgram, "elevenlabs": ElevenLabs}


def check(file):
    """Prints what is wrong with messages of models: a list for each vendor."""
    messages = json.load(open(file))
    for name, vendor in VENDORS.items():
        for message in messages.get(name, []):
            kind = vendor.server_type or vendor.TO_CLIENT[message["type"]]
            if wrong := mistakes(kind, message):
                print("mistake", wrong, "in", json.dumps(message))
    print("checked", sum(map(len, messages.values())), "messages", flush=True)


async def main(vendor):

    async def serve(socket):
        try:
            await vendor(socket).run()
        except websockets.ConnectionClosed:
            pass
        except Exception as error:
            print("mistake of the stand-in:", error, flush=True)
        print("session is over", flush=True)

    async with websockets.serve(serve, "127.0.0.1", int(os.environ["PORT"])):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


if sys.argv[1] == "check":
    check(sys.argv[2])
else:
    asyncio.run(main(VENDORS[sys.argv[1]]))
