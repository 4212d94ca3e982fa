"""The agent of examples/asterisk, on galcymedia, behind a route with dialect = "asterisk-json"."""

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import PYTHON

FIRST, SECOND = 700, 900
"""Hertz of what the agent says, before and after its flush."""
SENT_AT_ONCE = 8
ALL_WITHIN = 120


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        agent = ROOT / "examples" / "asterisk" / "agent.py"
        self._agent, port = await self._stage.app("asterisk", PYTHON, agent, ready="ready")
        parameters = 'parameters = { AI_LANGUAGE = "de" }'
        for stream, rate in {"ulaw": "", "slin16": "sample_rate = 16000"}.items():
            await self._stage.serve(f"ws://127.0.0.1:{port}", f'dialect = "asterisk-json"\n{rate}\n{parameters}')
            await self._talks(stream)
        await self._hangs_up()

    async def _talks(self, stream: str) -> None:
        already = len(self._agent.lines)
        call = await self._stage.call(6, "1#")
        said = await self._over(already)
        self.checks.equal("chan_websocket: the caller hangs up, and the agent learns it", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        named = said[0].endswith(f"in {stream} {{'AI_LANGUAGE': 'de'}}")
        self.checks.check("  the agent knows the format, and the route's parameters", named, said[0])
        self.checks.equal("  it gets the caller's keys", [line for line in said if line.startswith("key")], ["key 1", "key #"])
        self._hears_the_caller("it", said)
        steps = [line for line in said if line.startswith(("drained", "said", "ERROR"))]
        self.checks.equal("  the flush drains the queue, and the next mark is processed", steps, ["drained", "said all"])
        first, second = seconds_of(call, FIRST), seconds_of(call, SECOND)
        self.checks.check("  the caller hears the agent, until the flush", 0.5 < first < SENT_AT_ONCE - 4, f"{first:.2f} of {SENT_AT_ONCE} s")
        self.checks.check("  and the second after it", 0.8 < second < 1.1, f"{second:.2f} s")
        self.checks.check("  the socket is closed with 1000", any("'code': 1000" in line for line in said))

    async def _hangs_up(self) -> None:
        call = await self._stage.call(30, "*")
        self.checks.equal("  the agent hangs up", call["ended_by"], "terminated")
        await self._over(len(self._agent.lines))

    async def _over(self, already: int) -> list[str]:
        """What the agent wrote since then, once its next call is over."""
        self._calls += 1
        await self._agent.wait_for_count("call is over", self._calls)
        return self._agent.lines[already:]


if __name__ == "__main__":
    run("the agent of examples/asterisk", Scenario, ALL_WITHIN)
