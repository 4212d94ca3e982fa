"""The bots of examples/audiosocket, on the npm packages asterisk-audiosocket and @fonoster/streams, by Asterisk's protocol
over TCP."""

import re

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import CALLER

GREETING = 700
"""Hertz of what the bot says for two seconds, before it is an echo."""
FOLDER = ROOT / "target" / "interop-agents-npm" / "audiosocket"
ALL_WITHIN = 120


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        self._app, port = await self._stage.app("audiosocket", "node", FOLDER / "app.mjs", ready="AudioSocket on port")
        await self._stage.serve(f"audiosocket://127.0.0.1:{port}", "")
        await self._they_talk()
        await self._the_bot_hangs_up()
        await self._fonoster()

    async def _they_talk(self) -> None:
        call = await self._stage.call(7, "5")
        self.checks.equal("asterisk-audiosocket: the caller hangs up", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        await self._app.wait_for_line("the end at the bot", lambda line: line == "call is over")
        said = self._app.lines
        self.checks.check("  it gets the UUID of the call", any(re.fullmatch(r"call [0-9a-f-]{36}", line) for line in said), str(said))
        self.checks.check("  it gets the caller's key", "key 5" in said, str(said))
        self.checks.equal("  it reports no error", [line for line in said if line.startswith("error")], [])
        greeting, echo = seconds_of(call, GREETING), seconds_of(call, CALLER)
        self.checks.check("  the caller hears its greeting", 1.7 < greeting < 2.1, f"{greeting:.2f} of 2 s")
        self.checks.check("  and then hears itself", echo > 3, f"{echo:.2f} s")

    async def _the_bot_hangs_up(self) -> None:
        call = await self._stage.call(30, "#")
        self.checks.equal("  the bot hangs up", call["ended_by"], "terminated")

    async def _fonoster(self) -> None:
        """It hangs up after eight seconds of echo."""
        bot, port = await self._stage.app("fonoster", "node", FOLDER / "fonoster.mjs", ready="AudioSocket on port")
        await self._stage.serve(f"audiosocket://127.0.0.1:{port}", "")
        call = await self._stage.call(7)
        self.checks.equal("@fonoster/streams: the caller hangs up", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        await bot.wait_for_line("the end at the bot", lambda line: line == "call is over")
        self.checks.check("  it gets the UUID of the call", any(re.fullmatch(r"call [0-9a-f-]{36}", line) for line in bot.lines))
        self.checks.equal("  it reports no error", [line for line in bot.lines if line.startswith("error")], [])
        greeting, echo = seconds_of(call, GREETING), seconds_of(call, CALLER)
        self.checks.check("  the caller hears its greeting", 1.7 < greeting < 2.1, f"{greeting:.2f} of 2 s")
        self.checks.check("  and then hears itself", echo > 3, f"{echo:.2f} s")
        call = await self._stage.call(40)
        self.checks.equal("  the bot hangs up", call["ended_by"], "terminated")


if __name__ == "__main__":
    run("the bot of examples/audiosocket", Scenario, ALL_WITHIN)
