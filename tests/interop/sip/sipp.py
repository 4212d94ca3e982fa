"""SIPp as a phone: one scenario file each, which ends with 0 if every message was the one that it waits for."""

import asyncio
from pathlib import Path

from deadline import within
from places import udp_port
from processes import SCRATCH, Child
from stage import Stage

SCENARIOS = Path(__file__).parent / "scenarios"


class Sipp(Child):
    """A phone on loopback that takes so many calls and ends."""

    def __init__(self, stage: Stage, scenario: str, *, calls: int = 1) -> None:
        super().__init__(f"sipp-{scenario}")
        self._stage, self._scenario, self._calls = stage, scenario, calls
        self.port = udp_port()
        self.uri = f"sip:200@127.0.0.1:{self.port}"

    async def run(self, *options: str) -> None:
        file = SCENARIOS / f"{self._scenario}.xml"
        scenario = ("-sf", str(file)) if file.exists() else ("-sn", self._scenario)
        place = ("-i", "127.0.0.1", "-p", str(self.port), "-mp", str(udp_port()))
        trace = ("-trace_err", "-error_file", str(SCRATCH / f"{self.name}.errors"))
        limits = ("-m", str(self._calls), "-nostdin", "-timeout", "40", "-default_behaviors", "all,-bye")
        self._stage.stops_with(self)
        await self.start("sipp", *scenario, *place, *trace, *limits, *options)

    async def end(self) -> int:
        """Its exit code."""
        return await within(50, f"{self.name} to end", self.process.wait())


async def many(stage: Stage, calls: int, seconds: float, per_second: float) -> list[dict]:
    """So many callers at this pace, and their reports."""
    async def place(number: int) -> dict:
        await asyncio.sleep(number / per_second)
        return await stage.call(seconds)

    return await asyncio.gather(*(place(number) for number in range(calls)))
