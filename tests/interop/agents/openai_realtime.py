"""The openai-realtime agent, whose every event must be one of the types of OpenAI's own Python package."""

import json
from pathlib import Path

from checks import Checks, run
from heard import objections, seconds_of
from stage import CALLER, PYTHON, Stage

GREETING, ANSWER = 700, 900
"""Hertz of what the model says, before and after the caller's turn."""
SENT_AT_ONCE = 8
ALL_WITHIN = 120

ROUTE = """
[routes.reception.model]
key = "secret"
url = "ws://127.0.0.1:{port}/v1/realtime"
instructions = "Be brief."
voice = "marin"
greeting = "Greet the caller."
tools = ["hangup", "send_dtmf"]
"""


class Scenario:
    def __init__(self, readme: Path, program: Path) -> None:
        self.checks, self._stage = Checks(), Stage(program)

    @property
    def service(self):
        return self._stage.service

    async def run(self) -> None:
        await self._stage.start()
        server = Path(__file__).with_name("realtime_server.py")
        self._model, port = await self._stage.app("realtime", PYTHON, server, ready="ready")
        await self._stage.serve("openai-realtime:gpt-realtime", ROUTE.format(port=port))
        call = await self._stage.call(30, "1##9")
        await self._model.wait_for_count("session is over", 1)
        said = self._model.lines
        self.checks.equal("OpenAI's types: the model hangs up", call["ended_by"], "terminated")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        self.checks.equal("  they know every event of ours", [line for line in said if line.startswith("mistake")], [])
        events = [json.loads(line.removeprefix("event ")) for line in said if line.startswith("event ")]
        kinds = [event["type"] for event in events]
        item, cut = "conversation.item.create", "conversation.item.truncate"
        wanted = ["session.update", "response.create", item, cut, item, item, item]
        self.checks.equal("  set-up, greeting, keys and truncation came", kinds[: len(wanted)], wanted)
        heard = [int(line.split()[1]) for line in said if line.startswith("hears ")]
        tones = sum(abs(hertz - CALLER) <= 10 for hertz in heard)
        self.checks.check("  the model hears the caller", tones >= 2, f"{tones} of {len(heard)} half seconds: {heard}")
        greeting, answer = seconds_of(call, GREETING), seconds_of(call, ANSWER)
        self.checks.check("  the caller hears the greeting, until interrupting it", 0.5 < greeting < SENT_AT_ONCE - 4, f"{greeting:.2f} s")
        self.checks.check("  and what the model says then", answer > 0.2, f"{answer:.2f} s")
        ends = [event["audio_end_ms"] for event in events if event["type"] == cut]
        told = ends and abs(ends[0] / 1000 - greeting) < 0.3
        self.checks.check("  the model is told how much of its greeting was heard", bool(told), f"{ends} ms of {greeting:.2f} s")

    async def clean_up(self) -> None:
        await self._stage.stop()


if __name__ == "__main__":
    run("the openai-realtime agent by OpenAI's own types", Scenario, ALL_WITHIN)
