"""aiortc is caller and bot: the bot answers Patchcord's offer over HTTP, and both hear each other.

    aiortc_answerer.py [--readme FILE] [--program FILE]

One line for each check; the exit code says whether all passed. Logs, and what was heard, are in target/interop.
"""

import asyncio
from pathlib import Path

import sound
from bot import Bots
from checks import Checks, run
from deadline import stop_all
from meta import Meta, new_call_id
from phone import Phone
from processes import SCRATCH, SPEECH, Service
from sound import RATE

ALL_WITHIN = 60
"""Seconds for everything."""
LEAST_LIKENESS = 0.8
"""Two codings of Opus leave 0.95 of speech; words of somebody else have less than 0.4."""
ROUTE = """
headers = { Authorization = "Bearer interop" }
parameters = { language = "en" }
"""


class Scenario:
    """The program, Meta, a caller and a bot."""

    def __init__(self, readme: Path, program: Path) -> None:
        del readme
        self.checks = Checks()
        self.meta = Meta()
        self.bots = Bots()
        self.service = Service(program)
        self._phones: list[Phone] = []
        self._stops: list = []

    async def run(self) -> None:
        await self.meta.start()
        self._stops.append(self.meta.stop)
        await self.bots.start()
        self._stops.append(self.bots.stop)
        self._stops.append(self.service.stop)
        address = await self.service.run(self.meta.graph_url, f"offer:{self.bots.url}", ROUTE)
        self.meta.webhook_url = f"{address}/webhooks/whatsapp"
        await self._both_hear_each_other_and_the_bot_hangs_up()
        await self._the_caller_hangs_up()

    async def _call(self, number: int) -> tuple[str, Phone, Phone]:
        """A call that is put through to the bot that comes after so many others."""
        phone, call_id = Phone(), new_call_id()
        self._phones.append(phone)
        await self.meta.connect(call_id, await phone.offer())
        await phone.take_answer((await self.meta.wait_for(call_id, "pre_accept")).body["session"]["sdp"])
        offered = await self.bots.wait_for(number)
        await self.meta.wait_for(call_id, "accept")
        await phone.wait_for_state("connected")
        await offered.bot.wait_for_state("connected")
        # Nobody is heard before accept's reply.
        await offered.bot.listen_until(RATE // 2, 5)
        return call_id, phone, offered.bot

    async def _both_hear_each_other_and_the_bot_hangs_up(self) -> None:
        call_id, phone, bot = await self._call(0)
        offered = self.bots.offers[0]
        data = offered.body["request_data"]
        self.checks.check("aiortc answers the offer, and the call is accepted", True)
        self.checks.equal("the offer has the route's header", offered.authorization, "Bearer interop")
        self.checks.equal("… the wacid and the route's parameters", (data["wacid"], data["parameters"]), (call_id, {"language": "en"}))
        speech = sound.read_wav(SPEECH)
        await asyncio.gather(
            self._check_hears("the bot hears the caller", phone, bot, speech[: 3 * RATE]),
            self._check_hears("the caller hears the bot", bot, phone, speech[3 * RATE : 6 * RATE]),
        )
        await bot.close()
        await self.meta.wait_for(call_id, "terminate")
        self.checks.check("a bot that closes its connection hangs up", True)
        await self._ended("agent_hung_up")

    async def _the_caller_hangs_up(self) -> None:
        call_id, _, bot = await self._call(1)
        await self.meta.terminate(call_id)
        await bot.wait_for_state("closed")
        self.checks.check("a caller who hangs up closes the bot's connection", True)
        wrong = [line for line in self.service.lines if '"level":"ERROR"' in line or "panicked" in line]
        self.checks.check("the service logged no error", not wrong, wrong[0] if wrong else "")

    async def _check_hears(self, name: str, speaker: Phone, listener: Phone, speech) -> None:
        before = listener.heard_samples()
        speaker.voice.speak(speech)
        await listener.listen_until(before + len(speech) + int(1.5 * RATE), len(speech) / RATE + 6)
        heard = listener.heard()[before:]
        sound.write_wav(heard, SCRATCH / f"heard-{name.replace(' ', '-')}.wav")
        likeness = sound.compare(speech, heard)
        self.checks.check(name, likeness.correlation > LEAST_LIKENESS, f"correlation {likeness.correlation:.2f}")

    async def _ended(self, reason: str) -> None:
        metrics = await self.meta.get("/metrics")
        ended = [line for line in metrics.splitlines() if f'reason="{reason}"' in line]
        self.checks.check(f"the service counts the end as {reason}", len(ended) == 1 and ended[0].endswith(" 1"))

    async def clean_up(self) -> None:
        await stop_all(self._stops + [phone.close for phone in self._phones])


if __name__ == "__main__":
    run("aiortc as a bot behind an HTTP endpoint", Scenario, ALL_WITHIN)
