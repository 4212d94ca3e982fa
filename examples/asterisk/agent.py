"""An agent on galcymedia, a library for Asterisk's chan_websocket, that takes Patchcord's calls.

It says one tone, hears the caller, says another for a second at the key #, and hangs up at *. The tone stands for your own
audio; all the rest may stay.
"""

import asyncio
import os

import numpy as np
from galcymedia import pcm, serve


class Agent:
    def __init__(self, session):
        self.session, self.heard = session, b""

    async def start(self):
        media = self.session.media
        self.rate, self.is_mulaw = media.sample_rate, media.audio_format == "ulaw"
        print("call", media.channel_id, "in", media.audio_format, media.channel_variables, flush=True)
        self.session.accept_audio()
        await self.session.answer()
        await self.say(700, seconds=8)

    async def say(self, hertz, seconds):
        sound = (10_000 * np.sin(2 * np.pi * hertz * np.arange(seconds * self.rate) / self.rate)).astype("<i2").tobytes()
        sound = pcm.pcm_to_ulaw(sound) if self.is_mulaw else sound
        # All at once, in messages that Asterisk would take: Patchcord paces.
        for at in range(0, len(sound), 32_000):
            await self.session.send_audio(sound[at : at + 32_000])

    async def send_audio(self, chunk):
        self.heard += pcm.ulaw_to_pcm(chunk) if self.is_mulaw else chunk
        if len(self.heard) >= self.rate:  # half a second
            spectrum = np.abs(np.fft.rfft(np.frombuffer(self.heard, "<i2")))
            print("hears", 2 * spectrum.argmax() if spectrum.max() > 1e5 else 0, "Hz", flush=True)
            self.heard = b""

    async def on_dtmf(self, digit):
        print("key", digit, flush=True)
        if digit == "#":
            # Asterisk says that the queue is empty after a flush, and drops marks without a word.
            drained = await self.session.report_when_drained()
            await self.session.flush()
            await drained.wait()
            print("drained", flush=True)
            await self.say(900, seconds=1)
            heard = await self.session.mark()
            await heard.wait()
            print("said all", flush=True)
        elif digit == "*":
            await self.session.hangup()

    async def close(self):
        print("call is over", flush=True)


def watch(name, payload):
    if name in ("ERROR", "HANGUP"):
        print(name, payload, flush=True)


async def main():
    port = int(os.environ.get("PORT", 8767))
    async with serve(Agent, port=port, forward_dtmf=True, on_event=watch):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
