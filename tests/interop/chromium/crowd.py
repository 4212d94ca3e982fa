"""What the console costs: the weight of its files, the time from "Answer" to sound, and a core's share with five hundred
live calls on the screen. The limits are those of a machine that does nothing else."""

import asyncio
import gzip
import re
import statistics
import time
from pathlib import Path

import aiohttp

from checks import Checks, run
from stage import Stage

ALL_WITHIN = 240
CALLS = 500
SECONDS = 15
MOST_OF_A_CORE = 0.25
MOST_BYTES = 150_000
ANSWERS = 5
ANSWERED_WITHIN_MS = 300
SCRIPT = Path(__file__).parent / "crowd.js"


class Scenario:
    def __init__(self, _readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.stage = Stage(program, "crowd")
        self.service = self.stage.service

    async def run(self) -> None:
        await self.stage.set()
        await self._weight()
        await self._answering()
        lead = self.stage.lead
        await lead.context.add_init_script(path=SCRIPT)
        await lead.sign_in(self.stage.address)
        await lead.page.wait_for_function(f"() => document.querySelectorAll('.row').length > {CALLS - 20}")
        session = await lead.browser.new_browser_cdp_session()
        before, began = await processor_time(session), time.monotonic()
        # The only way to measure a time is to let it pass.
        await asyncio.sleep(SECONDS)
        share = (await processor_time(session) - before) / (time.monotonic() - began)
        shown = await lead.page.locator(".row").count()
        self.checks.check("five hundred live calls, fifty events a second", share <= MOST_OF_A_CORE,
                          f"{share:.0%} of a core in all of Chromium's processes, {shown} rows")

    async def _answering(self) -> None:
        """By the page's own clock."""
        ana, took = self.stage.ana, []
        await ana.be_available()
        for _ in range(ANSWERS):
            call = await self.stage.call()
            await ana.rings()
            took.append(await ana.answer())
            await self.stage.meta.terminate(call)
            await ana.wraps_up()
            await ana.be_ready()
        median = statistics.median(took)
        self.checks.check('from the click on "Answer" to sound both ways', median <= ANSWERED_WITHIN_MS,
                          f"{median:.0f} ms, median of {', '.join(f'{one:.0f}' for one in took)}")

    async def _weight(self) -> None:
        """All files that the page asks for, each compressed by itself as a server does."""
        paths = {url.removeprefix(self.stage.address) for url in self.stage.lead.requests if "/console" in url}
        async with aiohttp.ClientSession(self.stage.address) as client:
            sizes = {path: len(gzip.compress(await self._read(client, path), 9)) for path in paths}
        total = sum(sizes.values())
        largest = max(sizes, key=sizes.get)
        self.checks.check("the whole console, compressed", total <= MOST_BYTES,
                          f"{total / 1000:.0f} kB in {len(sizes)} files, most of it {re.sub('.*/', '', largest)}")

    @staticmethod
    async def _read(client: aiohttp.ClientSession, path: str) -> bytes:
        async with client.get(path) as response:
            return await response.read()

    async def clean_up(self) -> None:
        await self.stage.strike()


async def processor_time(session) -> float:
    """Seconds that all processes of the browser have used."""
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    return sum(process["cpuTime"] for process in processes)


if __name__ == "__main__":
    run("The weight of the console", Scenario, ALL_WITHIN)
