"""The app of examples/plivo, on Plivo's own stream SDK, whose models of every message are strict."""

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import PYTHON

FIRST, SECOND = 700, 900
"""Hertz of what the app says, before and after `clearedAudio`."""
SENT_AT_ONCE = 8
ALL_WITHIN = 120


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        app = ROOT / "examples" / "plivo" / "app.py"
        self._app, port = await self._stage.app("plivo", PYTHON, app, ready="Uvicorn running")
        parameters = 'parameters = { language = "de" }'
        for stream, rate in {"audio/x-l16 16000": "sample_rate = 16000", "audio/x-mulaw 8000": ""}.items():
            await self._stage.serve(f"ws://127.0.0.1:{port}/stream", f'dialect = "plivo"\n{rate}\n{parameters}')
            await self._talks(stream)
        await self._hangs_up()

    async def _talks(self, stream: str) -> None:
        already = len(self._app.lines)
        call = await self._stage.call(6, "1#")
        self._calls += 1
        await self._app.wait_for_count("call is over", self._calls)
        said = [line for line in self._app.lines[already:] if not line.startswith("INFO")]
        self.checks.equal("Plivo's stream SDK: the caller hangs up, and the app learns it", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        self.checks.equal("  its strict models take every message", [line for line in said if line.startswith("error")], [])
        self.checks.check("  it knows the format, and the route's parameters", said[0].endswith(f"in {stream} {{language: de}}"), said[0])
        self.checks.equal("  it gets the caller's keys", [line for line in said if line.startswith("key")], ["key 1", "key #"])
        self._hears_the_caller("it", said)
        steps = [line for line in said if line.startswith(("cleared", "played"))]
        self.checks.equal("  clearAudio drops the checkpoint, and the next one is played", steps, ["cleared", f"played {SECOND} Hz"])
        first, second = seconds_of(call, FIRST), seconds_of(call, SECOND)
        self.checks.check("  the caller hears the app, until clearAudio", 0.5 < first < SENT_AT_ONCE - 4, f"{first:.2f} of {SENT_AT_ONCE} s")
        self.checks.check("  and the second after it", 0.8 < second < 1.1, f"{second:.2f} s")

    async def _hangs_up(self) -> None:
        call = await self._stage.call(30, "*")
        self.checks.equal("  the app hangs up", call["ended_by"], "terminated")


if __name__ == "__main__":
    run("the app of examples/plivo", Scenario, ALL_WITHIN)
