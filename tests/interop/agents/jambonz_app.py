"""The jambonz app of examples/jambonz, on @jambonz/sdk, behind a route with dialect = "jambonz"."""

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT

APP = ROOT / "target" / "interop-agents-npm" / "jambonz" / "app.mjs"
"""A copy of the example, beside its packages."""
FIRST, CLIP = 700, 900
"""Hertz of what the app says, and of its clip."""
SENT_AT_ONCE = 8
ALL_WITHIN = 120


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        self._app, port = await self._stage.app("jambonz", "node", APP, ready="ready")
        for rate in (16_000, 24_000):
            keys = 'dialect = "jambonz"' + ("" if rate == 16_000 else f"\nsample_rate = {rate}")
            await self._stage.serve(f"ws://127.0.0.1:{port}/audio", keys)
            await self._talks(rate)
        await self._hangs_up()

    async def _talks(self, rate: int) -> None:
        already = len(self._app.lines)
        call = await self._stage.call(6, "1#5")
        self._calls += 1
        await self._app.wait_for_count("call is over: 1000", self._calls)
        said = self._app.lines[already:]
        self.checks.equal("jambonz SDK: the caller hangs up", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        self.checks.check("  the app knows who calls, and the rate", f"from +12025550143 at {rate} Hz" in said[0], said[0])
        self.checks.equal("  it gets the caller's keys", [line for line in said if line.startswith("key")], ["key 1", "key #", "key 5"])
        self._hears_the_caller("it", said)
        marks = [line for line in said if line.startswith(("mark", "clip"))]
        self.checks.equal("  killAudio returns the mark, and the clip is done", marks, [f"mark {FIRST} Hz: cleared", "clip is done"])
        first, clip = seconds_of(call, FIRST), seconds_of(call, CLIP)
        self.checks.check("  the caller hears the app, until killAudio", 0.5 < first < SENT_AT_ONCE - 4, f"{first:.2f} of {SENT_AT_ONCE} s")
        self.checks.check("  and its clip of a second", 0.8 < clip < 1.1, f"{clip:.2f} s")

    async def _hangs_up(self) -> None:
        call = await self._stage.call(30, "*")
        self.checks.equal("  disconnect hangs up", call["ended_by"], "terminated")
        await self._app.wait_for_count("call is over: 1000", self._calls + 1)


if __name__ == "__main__":
    run("the jambonz app of examples/jambonz", Scenario, ALL_WITHIN)
