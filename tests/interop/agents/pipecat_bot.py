"""The Pipecat bot of examples/pipecat behind a route of each dialect that Pipecat speaks."""

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import PYTHON

FIRST, SECOND = 700, 900
"""Hertz of what the bot says, before and after the key #."""
SENT_AT_ONCE = 4
"""Seconds of the first tone that the bot has sent before the key: two messages of two seconds."""
DIALECTS = {"twilio": "/ws", "telnyx": "/ws", "plivo": "/ws", "exotel": "/ws", "vonage": "/vonage"}
"""And the bot's paths for them: it tells the first four from one another by their first messages."""
ALL_WITHIN = 180


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        bot = ROOT / "examples" / "pipecat" / "bot.py"
        self._bot, port = await self._stage.app("pipecat", PYTHON, bot, ready="Uvicorn running")
        for dialect, path in DIALECTS.items():
            # The keys that a reader of the documentation would write.
            await self._stage.serve(f"ws://127.0.0.1:{port}{path}", f'dialect = "{dialect}"')
            await self._talks(dialect)
            await self._hangs_up(dialect)

    async def _talks(self, dialect: str) -> None:
        already = len(self._bot.lines)
        call = await self._stage.call(5, "12#")
        await self._bot.wait_for_count(f"{dialect} call is over", 1)
        said = self._bot.lines[already:]
        self.checks.equal(f"Pipecat, {dialect}: the caller hangs up, and the bot learns it", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        if dialect not in ("plivo", "vonage"):  # whose streams do not say it
            self.checks.check("  the bot knows who calls", f"{dialect} call from +12025550143" in said)
        keys = [line.removeprefix("key ") for line in said if line.startswith("key ")]
        self.checks.equal("  the bot gets the caller's keys", "".join(keys), "12#")
        self._hears_the_caller("the bot", said)
        first, second = seconds_of(call, FIRST), seconds_of(call, SECOND)
        detail = f"{first:.2f} s, then {second:.2f} s"
        self.checks.check("  the caller hears the bot, before and after its interruption", first > 0.5 and second > 0.5, detail)
        self.checks.check("  what it had sent ahead is cleared", first < SENT_AT_ONCE - 1, f"{first:.2f} of {SENT_AT_ONCE} s")

    async def _hangs_up(self, dialect: str) -> None:
        call = await self._stage.call(30, "*")
        self.checks.equal("  the bot hangs up", call["ended_by"], "terminated")
        await self._bot.wait_for_count(f"{dialect} call is over", 2)


if __name__ == "__main__":
    run("the Pipecat bot of examples/pipecat", Scenario, ALL_WITHIN)
