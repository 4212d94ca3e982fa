"""The app of examples/vonage, on Vonage's SDK: its models read the answer webhook and write the NCCO."""

import re

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import PYTHON

WELCOME, FIRST, SECOND = 1200, 700, 900
"""Hertz of the sound in the NCCO, and of what the app says on its WebSocket, before and after its clear."""
SENT_AT_ONCE = 8
ALL_WITHIN = 90


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        app = ROOT / "examples" / "vonage" / "app.py"
        self._app, port = await self._stage.app("vonage", PYTHON, app, ready="Uvicorn running")
        answer = f"ncco:http://127.0.0.1:{port}/webhooks/answer"
        await self._stage.serve(answer, "")
        await self._talks()
        await self._hangs_up()
        await self._stage.serve(f"{answer}?welcome=yes", "")
        await self._welcomes()

    async def _talks(self) -> None:
        call = await self._stage.call(6, "1#")
        await self._app.wait_for_count("call is over", 1)
        said = [line for line in self._app.lines if not line.startswith("INFO")]
        self.checks.equal("Vonage's SDK: the caller hangs up, and the app learns it", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        asked = re.fullmatch("answer 12025550143 calls 447700900199 [0-9a-f-]{36}", said[0])
        self.checks.check("  its model reads the answer webhook", asked is not None, said[0])
        self.checks.equal("  the stream is as the NCCO asks for it", said[1], "connected audio/l16;rate=24000 caller 12025550143")
        self.checks.equal("  it gets the caller's keys", [line for line in said if line.startswith("key")], ["key 1", "key #"])
        self._hears_the_caller("it", said)
        steps = [line for line in said if line.startswith(("cleared", "said"))]
        self.checks.equal("  clear drops the notification, and the next one comes back", steps, ["cleared", f"said {SECOND} Hz"])
        first, second = seconds_of(call, FIRST), seconds_of(call, SECOND)
        self.checks.check("  the caller hears the app, until its clear", 0.5 < first < SENT_AT_ONCE - 4, f"{first:.2f} of {SENT_AT_ONCE} s")
        self.checks.check("  and the second after it", 0.8 < second < 1.1, f"{second:.2f} s")

    async def _hangs_up(self) -> None:
        call = await self._stage.call(30, "*")
        self.checks.equal("  the app hangs up", call["ended_by"], "terminated")
        await self._app.wait_for_count("call is over", 2)

    async def _welcomes(self) -> None:
        call = await self._stage.call(4)
        await self._app.wait_for_count("call is over", 3)
        welcome, first = seconds_of(call, WELCOME), seconds_of(call, FIRST)
        self.checks.check("  a sound in the NCCO comes first", 0.8 < welcome < 1.1, f"{welcome:.2f} s")
        self.checks.check("  and then the WebSocket", first > 1, f"{first:.2f} s")
        self.checks.equal("  the line to the caller is whole", objections(call), [])


if __name__ == "__main__":
    run("the app of examples/vonage", Scenario, ALL_WITHIN)
