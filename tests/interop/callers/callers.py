"""Callers on other WebRTC stacks: each calls through the real webhook, speaks to the README's agent and hears itself.

    callers.py [--readme FILE] [--program FILE]

One line for each check; the exit code says whether all passed. Logs, and what each heard, are in target/interop.
"""

import asyncio
import json
from pathlib import Path

import sound
from checks import Checks, run
from deadline import stop_all, within
from meta import Meta, new_call_id
from places import own_ip
from processes import ROOT, SCRATCH, SPEECH, Agent, Child, Service
from sound import RATE

HERE = Path(__file__).parent
NODE = ROOT / "target" / "interop-callers-npm"
"""The scripts for Node stand beside their packages."""
ALL_WITHIN = 120
LEAST_LIKENESS = 0.8
"""As for aiortc."""
SPOKEN = SCRATCH / "spoken.wav"


class Phone(Child):
    """A phone in a process of its own. It takes orders, and tells, by JSON objects, one a line."""

    async def run(self, *command: str) -> str:
        """Starts it and gives its offer."""
        await self.start(*command, stdin=asyncio.subprocess.PIPE)
        return await self._told("offer", 20)

    def order(self, **order: str) -> None:
        self.process.stdin.write((json.dumps(order) + "\n").encode())

    async def wait_for_state(self, state: str) -> None:
        await self.wait_for_line(f"{self.name} to be {state}", lambda line: tells(line).get("state") == state)

    async def listen_until(self, samples: int, seconds: float) -> None:
        enough = lambda line: tells(line).get("heard", 0) >= samples  # noqa: E731
        await self.wait_for_line(f"{samples / RATE:.1f} s of sound at {self.name}", enough, seconds)

    def heard_samples(self) -> int:
        return max((tells(line).get("heard", 0) for line in self.lines), default=0)

    async def heard(self):
        """All that it has heard."""
        self.order(write=str(SCRATCH / f"{self.name}.wav"))
        return sound.read_wav(Path(await self._told("written", 10)))

    def objections(self) -> list[str]:
        return [tells(line)["objection"] for line in self.lines if "objection" in tells(line)]

    async def _told(self, key: str, seconds: float):
        line = await self.wait_for_line(f"the {key} of {self.name}", lambda line: key in tells(line), seconds)
        return tells(line)[key]


def tells(line: str) -> dict:
    """What a line of a phone says; nothing if it is one of its stack's own."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class Scenario:
    """The programs, and Meta around them."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.meta = Meta()
        self.agent = Agent(readme)
        self.service = Service(program)
        # Not every stack offers the loopback. Packets to this machine's own address do not leave it either.
        self.address = own_ip()
        self.service.media_addresses = [self.address]
        self.speech = sound.read_wav(SPEECH)
        self._stops: list = []

    async def run(self) -> None:
        sound.write_wav(self.speech, SPOKEN)
        await self.meta.start()
        self._stops.append(self.meta.stop)
        self._stops.append(self.agent.stop)
        await self.agent.run()
        self._stops.append(self.service.stop)
        address = await self.service.run(self.meta.graph_url, self.agent.url)
        self.meta.webhook_url = f"{address}/webhooks/whatsapp"
        await self._call("libwebrtc", "node", str(NODE / "libwebrtc.mjs"))
        for setup in ("actpass", "active", "passive"):
            await self._call(f"werift-{setup}", "node", str(NODE / "werift.mjs"), self.address, setup)
        await self._call("gstreamer", "/usr/bin/python3", str(HERE / "gstreamer.py"))
        wrong = [line for line in self.service.lines if '"level":"ERROR"' in line or "panicked" in line]
        self.checks.check("the service logged no error", not wrong, wrong[0] if wrong else "")

    async def _call(self, name: str, *command: str) -> None:
        phone = Phone(name)
        self._stops.append(phone.stop)
        offer = await phone.run(*command)
        call_id, stops = new_call_id(), self.agent.count("stop")
        self.checks.equal(f"{name} calls", await self.meta.connect(call_id, offer), 200)
        phone.order(answer=(await self.meta.wait_for(call_id, "pre_accept")).body["session"]["sdp"])
        await phone.wait_for_state("connected")
        await self.meta.wait_for(call_id, "accept")
        # What it says before this could be said to a line that is not accepted yet.
        await phone.listen_until(RATE // 2, 10)
        before = phone.heard_samples()
        phone.order(speak=str(SPOKEN))
        await phone.listen_until(before + len(self.speech) + 2 * RATE, len(self.speech) / RATE + 10)
        likeness = sound.compare(self.speech, await phone.heard())
        detail = f"correlation {likeness.correlation:.2f}"
        self.checks.check("… and hears its own speech from the agent", likeness.correlation > LEAST_LIKENESS, detail)
        self.checks.equal("… in one unbroken line", phone.objections(), [])
        await self.meta.terminate(call_id)
        await self.agent.wait_for_count("stop", stops + 1)
        self.checks.equal("… and hangs up", self.meta.actions(call_id), ["pre_accept", "accept"])
        await phone.stop()

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("other WebRTC stacks as WhatsApp callers", Scenario, ALL_WITHIN)
