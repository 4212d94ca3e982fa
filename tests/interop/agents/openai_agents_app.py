"""The app of examples/openai-agents: OpenAI's Agents SDK behind Twilio's stream. Its model is a stand-in, which finds after two
seconds that the caller speaks; how much of its words was heard, the SDK computes from the marks that came back."""

import json
from pathlib import Path

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT
from stage import PYTHON

APP = ROOT / "target" / "interop-agents-npm" / "openai-agents" / "app.mjs"
"""A copy of the example, beside its packages."""
FIRST, SECOND = 700, 900
"""Hertz of what the model says, before and after its interruption."""
SENT_AT_ONCE = 8
ALL_WITHIN = 90


class Scenario(Client):
    async def run(self) -> None:
        await self._stage.start()
        server = Path(__file__).with_name("model_server.py")
        model, port = await self._stage.app("realtime", "INTERRUPT_AFTER=4", PYTHON, server, "openai", ready="ready")
        url = f"OPENAI_URL=ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime"
        app, port = await self._stage.app("openai-agents", "OPENAI_API_KEY=secret", url, "node", APP, ready="ready")
        await self._stage.serve(f"ws://127.0.0.1:{port}", 'dialect = "twilio"')
        call = await self._stage.call(6, "1")
        await model.wait_for_count("session is over", 1)
        self.checks.equal("OpenAI's Agents SDK: the caller hangs up, and the app learns it", call["ended_by"], "caller")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        said = app.lines
        told = [line for line in said if not line.startswith(("ready", "call is over"))]
        self.checks.equal("  it knows who calls, hears the key, and is interrupted", told, ["call from +12025550143", "key 1", "interrupted"])
        over = next((line for line in said if line.startswith("call is over")), "")
        # A mark behind each tenth of a second, and one at each end; the cleared ones come back too.
        self.checks.equal("  every mark comes back", over, f"call is over, {SENT_AT_ONCE * 10 + 1 + 10 + 1} marks")
        self._hears_the_caller("the model", model.lines)
        first, second = seconds_of(call, FIRST), seconds_of(call, SECOND)
        self.checks.check("  the caller hears the model, until it is interrupted", 0.5 < first < SENT_AT_ONCE - 4, f"{first:.2f} of {SENT_AT_ONCE} s")
        self.checks.check("  and the second after it", 0.8 < second < 1.1, f"{second:.2f} s")
        events = [json.loads(line.removeprefix("event ")) for line in model.lines if line.startswith("event ")]
        ends = [event["audio_end_ms"] / 1000 for event in events if event["type"] == "conversation.item.truncate"]
        self.checks.check("  the marks tell how much was heard", len(ends) == 1 and abs(ends[0] - first) < 0.3, f"{ends} of {first:.2f} s")
        call = await self._stage.call(30, "*")
        self.checks.equal("  the app hangs up", call["ended_by"], "terminated")
        await model.wait_for_count("session is over", 2)


if __name__ == "__main__":
    run("the app of examples/openai-agents", Scenario, ALL_WITHIN)
