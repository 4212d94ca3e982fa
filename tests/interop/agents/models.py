"""The agents for speech models, whose every message must be one of the types of the vendor's own package."""

import json
from dataclasses import dataclass
from pathlib import Path

from checks import run
from client import Client
from heard import objections, seconds_of
from processes import ROOT, SCRATCH, Child
from stage import PYTHON

GREETING, ANSWER = 700, 900
"""Hertz of what the model says, before and after the caller's turn."""
SENT_AT_ONCE = 8
TYPESCRIPT = ROOT / "target" / "interop-agents-npm" / "elevenlabs" / "check.mjs"
"""A copy, beside its packages."""
ALL_WITHIN = 150

ROUTE = """
[routes.reception.model]
key = "secret"
url = "ws://127.0.0.1:{port}/v1"
instructions = "Be brief."
voice = "{voice}"
greeting = "Greet the caller."
tools = ["hangup", "send_dtmf"]
"""


@dataclass
class Vendor:
    name: str
    agent: str
    voice: str
    kinds: set[str]
    """What it is told, beside sound."""
    result: str
    """Stands in what it is told of a function's result."""


VENDORS = [
    Vendor("openai", "openai-realtime:gpt-realtime", "marin",
           {"session.update", "response.create", "conversation.item.create", "conversation.item.truncate"}, "function_call_output"),
    Vendor("gemini", "gemini-live:gemini-live", "Puck",
           {"setup", "realtimeInput", "toolResponse"}, "toolResponse"),
    Vendor("deepgram", "deepgram-agent:gpt-4o-mini", "aura-2-thalia-en",
           {"Settings", "InjectUserMessage", "FunctionCallResponse"}, "FunctionCallResponse"),
    Vendor("elevenlabs", "elevenlabs:agent_1", "voice_1",
           {"conversation_initiation_client_data", "pong", "contextual_update", "client_tool_result"}, "client_tool_result"),
]  # fmt: skip


class Scenario(Client):
    async def run(self) -> None:
        await self._our_stand_ins()
        await self._stage.start()
        for vendor in VENDORS:
            await self._talks(vendor)

    async def _our_stand_ins(self) -> None:
        messages = ROOT / "tests" / "simulator" / "fixtures" / "model-messages.json"
        checker = Child("model-messages")
        await checker.start(str(PYTHON), str(Path(__file__).with_name("model_server.py")), "check", str(messages))
        await checker.wait_for_line("the check of our stand-ins", lambda line: line.startswith("checked"), 60)
        await checker.stop()
        self.checks.equal("the vendors' types know what the stand-ins of our own tests say", checker.lines[:-1], [])

    async def _talks(self, vendor: Vendor) -> None:
        server = Path(__file__).with_name("model_server.py")
        model, port = await self._stage.app(vendor.name, PYTHON, server, vendor.name, ready="ready")
        await self._stage.serve(vendor.agent, ROUTE.format(port=port, voice=vendor.voice))
        call = await self._stage.call(30, "15##9")
        await model.wait_for_count("session is over", 1)
        said = model.lines
        self.checks.equal(f"the types of {vendor.name}: the model hangs up", call["ended_by"], "terminated")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        mistakes = [line for line in said if line.startswith("mistake")]
        if vendor.name == "elevenlabs":
            mistakes += await _by_typescript(said)
        self.checks.equal("  they know every message of ours", mistakes, [])
        events = [json.loads(line.removeprefix("event ")) for line in said if line.startswith("event ")]
        kinds = {event.get("type") or next(iter(event)) for event in events}
        self.checks.equal("  set-up, greeting, keys and results came", kinds, vendor.kinds)
        results = [json.dumps(event) for event in events if vendor.result in json.dumps(event)]
        self.checks.check("  the function's result came, once", len(results) == 1 and "send_dtmf" in results[0], str(results))
        self._hears_the_caller("the model", said, least=2)
        greeting, answer = seconds_of(call, GREETING), seconds_of(call, ANSWER)
        self.checks.check("  the caller hears the greeting, until interrupting it", 0.5 < greeting < SENT_AT_ONCE - 4, f"{greeting:.2f} s")
        self.checks.check("  and what the model says then", answer > 0.2, f"{answer:.2f} s")
        call = await self._stage.call(3)
        self.checks.equal("  the caller hangs up, and the model learns it", call["ended_by"], "caller")
        await model.wait_for_count("session is over", 2)
        if vendor.name == "openai":
            ends = [event["audio_end_ms"] / 1000 for event in events if event["type"] == "conversation.item.truncate"]
            told = bool(ends) and abs(ends[0] - greeting) < 0.3
            self.checks.check("  it is told how much of its greeting was heard", told, f"{ends} of {greeting:.2f} s")


async def _by_typescript(said: list[str]) -> list[str]:
    """What is wrong with messages that the stand-in has printed, its own included."""
    sides = {"event": "client", "sound": "client", "sent": "agent"}
    words = [line.partition(" ")[::2] for line in said]
    lines = [json.dumps({"from": sides[word], "message": json.loads(text)}) for word, text in words if word in sides]
    given = SCRATCH / "elevenlabs-messages.jsonl"
    given.write_text("\n".join(lines))
    checker = Child("elevenlabs-types")
    await checker.start("/bin/sh", "-c", f"exec node '{TYPESCRIPT}' < '{given}'")
    checked = f"checked {len(lines)} messages"
    await checker.wait_for_line("the check by TypeScript", lambda line: line == checked, 60)
    await checker.stop()
    return [line for line in checker.lines if line != checked]


if __name__ == "__main__":
    run("the agents for speech models by the vendors' own types", Scenario, ALL_WITHIN)
