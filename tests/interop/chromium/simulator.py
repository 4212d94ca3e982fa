"""`patchcord simulate` as a child program, and tones to speak into its page."""

import asyncio
import json
import math
import re
import struct
import urllib.request
import wave
from pathlib import Path

from processes import SCRATCH, Child

RATE = 48_000


class Simulator(Child):
    """The program with its page."""

    def __init__(self, program: Path) -> None:
        super().__init__("simulate")
        self._program = program

    async def run(self, *options: str) -> str:
        """Starts it and gives the address of its page."""
        places = ("--listen", "127.0.0.1:0", "--graph-listen", "127.0.0.1:0", "--output", str(SCRATCH / "simulate"))
        await self.start(str(self._program), "simulate", *places, *options)
        line = await self.wait_for_line("the simulator to be ready", lambda line: line.startswith("The phone:"))
        return next(word for word in line.split() if word.startswith("http://"))


    async def place_call(self, **more) -> None:
        """Has the service of the simulator call the phone page's person."""
        line = await self.wait_for_line("the service's API", lambda line: line.startswith("The API:"))
        base, key = re.search(r"(http://\S+)/v1 with the key (\S+)", line).groups()
        body = json.dumps({"to": "12025550143"} | more).encode()
        request = urllib.request.Request(base + "/v1/calls", body, {"Authorization": f"Bearer {key}"})
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).close())


def write_tone(hertz: int) -> Path:
    """A WAV file of one second that can be repeated without a click."""
    file = SCRATCH / f"tone-{hertz}.wav"
    samples = (round(9_000 * math.sin(2 * math.pi * hertz * at / RATE)) for at in range(RATE))
    with wave.open(str(file), "wb") as tone:
        tone.setnchannels(1)
        tone.setsampwidth(2)
        tone.setframerate(RATE)
        tone.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file
