"""The Pipecat bot of examples/pipecat behind a route of each dialect that Pipecat speaks, and with Twilio's REST API."""

from pathlib import Path

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import PYTHON

FIRST, SECOND = 700, 900
"""Hertz of what the bot says, before and after the key #."""
SENT_AT_ONCE = 4
"""Seconds of the first tone that the bot has sent before the key: two messages of two seconds."""
DIALECTS = {"twilio": "/ws", "telnyx": "/ws", "plivo": "/ws", "exotel": "/ws", "vonage": "/vonage", "asterisk": "/asterisk"}
"""And the bot's paths for them: it tells the first four from one another by their first messages."""
KEYS = {"asterisk": "sample_rate = 16000"}
"""What else a dialect needs: the library for Asterisk takes PCM alone."""
ACCOUNT, TOKEN = "AC0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"
ALL_WITHIN = 240


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        bot = ROOT / "examples" / "pipecat" / "bot.py"
        self._bot, port = await self._stage.app("pipecat", PYTHON, bot, ready="Uvicorn running")
        for dialect, path in DIALECTS.items():
            # The keys that a reader of the documentation would write.
            await self._stage.serve(f"ws://127.0.0.1:{port}{path}", f'dialect = "{dialect}"\n{KEYS.get(dialect, "")}')
            await self._talks(dialect)
            await self._hangs_up(dialect)
        await self._hangs_up_by_rest(bot)

    async def _talks(self, dialect: str) -> None:
        already = len(self._bot.lines)
        call = await self._stage.call(5, "12#")
        await self._bot.wait_for_count(f"{dialect} call is over", 1)
        said = self._bot.lines[already:]
        self.checks.equal(f"Pipecat, {dialect}: the caller hangs up, and the bot learns it", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        if dialect not in ("plivo", "vonage", "asterisk"):  # whose streams do not say it
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

    async def _hangs_up_by_rest(self, bot: Path) -> None:
        account = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_BASE_URL": self._stage.url}
        environment = [f"{name}={value}" for name, value in account.items()]
        _, port = await self._stage.app("pipecat-rest", *environment, PYTHON, bot, ready="Uvicorn running")
        section = f'[twilio]\naccount_sid = "{ACCOUNT}"\nauth_token = "{TOKEN}"'
        await self._stage.serve(f"ws://127.0.0.1:{port}/ws", f'dialect = "twilio"\n{section}')
        call = await self._stage.call(30, "*")
        self.checks.equal("Pipecat, auto_hang_up: the bot hangs up", call["ended_by"], "terminated")
        # And not by closing its WebSocket, which comes afterwards.
        ended = await self.service.wait_for_line("the end of the call", lambda line: "call.end_reason" in line)
        self.checks.check("  by Twilio's REST API", "hung_up_by_api" in ended, ended)


if __name__ == "__main__":
    run("the Pipecat bot of examples/pipecat", Scenario, ALL_WITHIN)
