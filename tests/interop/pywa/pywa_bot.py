"""The pywa bot of examples/pywa: callers hear the agent, it rejects, places calls, and ends at Meta what ends here."""

import asyncio
import hashlib
import hmac
import json
import os
import re
import time
import wave
from pathlib import Path

import aiohttp
import numpy

from checks import Checks, run
from deadline import stop_all, within
from processes import ROOT, SCRATCH, Agent, Child, free_tcp_port, media_ports
from simulator import Simulator, write_tone

TONE = 660
"""Hertz of what callers say; the agent is an echo."""
KEY = "patchcord_pywa_interop"
EVENTS_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
APP_SECRET, TOKEN, PHONE_NUMBER_ID = "simulated-app-secret", "simulated-access-token", "200000000000002"
CALLER, BLOCKED = "12025550143", "12025550177"
ALL_WITHIN = 180

CONFIG = """
[http]
listen = "127.0.0.1:{port}"
[media]
listen = ["127.0.0.1"]
ports = "{ports}"
allow_private = true
[routes.reception]
agent = "{agent}"
[[events.webhooks]]
url = "http://127.0.0.1:{bot}/patchcord"
secret = "{secret}"
[api]
keys = [{{ id = "pywa", sha256 = "{digest}", scopes = ["calls:write"] }}]
[prompts]
dir = "{folder}/prompts"
[recordings]
dir = "{folder}/recordings"
[store]
path = "{folder}/patchcord.db"
[log]
format = "json"
"""


class Scenario:
    """Meta and phones of the simulator, the bot, the service, and the README's agent."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.service = Child("patchcord")
        self._agent, self._bot, self._program = Agent(readme), Child("pywa"), program
        self._stops: list = []

    async def run(self) -> None:
        await self._start()
        await self._callers_hear_the_agent()
        await self._a_blocked_caller_is_rejected()
        await self._what_ends_here_ends_at_meta()
        await self._a_permission_is_asked_for()
        await self._a_permitted_call_is_placed()

    async def _start(self) -> None:
        folder = SCRATCH / "pywa"
        folder.mkdir(exist_ok=True)
        for left in folder.glob("patchcord.db*"):
            left.unlink()
        ports = {"bot": free_tcp_port(), "port": free_tcp_port()}
        self._bot_url, self._api = (f"http://127.0.0.1:{ports[name]}" for name in ("bot", "port"))
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self._stops += [self._client.close, self._agent.stop]
        await self._agent.run()
        simulator = Simulator(self._program)
        self._stops.append(simulator.stop)
        self._simulator = (await simulator.run("--webhook", self._bot_url + "/whatsapp")).rstrip("/")
        line = await simulator.wait_for_line("the Graph URL", lambda line: "whatsapp.graph_url" in line)
        values = ports | {"ports": media_ports(), "agent": self._agent.url, "secret": EVENTS_SECRET, "folder": folder}
        values["digest"] = hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "patchcord.toml").write_text(CONFIG.format(**values))
        self._stops.append(self.service.stop)
        await self.service.start(str(self._program), "serve", "--config", str(folder / "patchcord.toml"))
        await self.service.wait_for_line("the service to be ready", lambda line: "http.address" in line)
        os.environ.update(
            EXAMPLE=str(ROOT / "examples" / "pywa"), PORT=str(ports["bot"]), GRAPH_URL=re.search(r'"(.*)"', line)[1],
            PHONE_NUMBER_ID=PHONE_NUMBER_ID, WHATSAPP_TOKEN=TOKEN, APP_SECRET=APP_SECRET, VERIFY_TOKEN="word",
            PATCHCORD_URL=self._api, PATCHCORD_KEY=KEY, EVENTS_SECRET=EVENTS_SECRET, BLOCKED=BLOCKED,
        )  # fmt: skip
        self._stops.append(self._bot.stop)
        await self._bot.start(str(ROOT / "target/venv-pywa/bin/python"), "-u", str(Path(__file__).with_name("serve.py")))
        await self._bot.wait_for_line("the bot to be ready", lambda line: "Uvicorn running" in line, 60)

    async def _callers_hear_the_agent(self) -> None:
        report = await self._call(**{"from": CALLER}, speech=str(write_tone(TONE)), repeat=True, seconds=3)
        self.checks.equal("the caller hangs up", report["ended_by"], "caller")
        stages = report["stages_ms"]
        self.checks.check("pre_accept, media, accept, in this order", stages["pre_accepted"] <= stages["media_up"] <= stages["accepted"], str(stages))
        self.checks.equal("the phone objects to nothing", report["objections"], [])
        self._heard_the_tone("the caller hears the agent", report)
        call = await self._ended("caller_hung_up")
        self.checks.equal("the service knows who called", (call["from"]["wa_id"], call["signaling"]), (CALLER, "external"))
        self.checks.check("the first sound comes right after accept", stages["first_packet"] - stages["accepted"] < 500, str(stages))

    async def _a_blocked_caller_is_rejected(self) -> None:
        report = await self._call(**{"from": BLOCKED}, seconds=3)
        self.checks.equal("a blocked caller is rejected", report["ended_by"], "rejected")

    async def _what_ends_here_ends_at_meta(self) -> None:
        calling = asyncio.create_task(self._call(**{"from": CALLER}, seconds=30))
        live = await self._live("talking")
        async with self._patchcord("POST", f"/v1/calls/{live['id']}/actions/hangup") as response:
            self.checks.equal("the API hangs up", response.status, 202)
        report = await within(20, "the end at Meta", calling)
        self.checks.equal("the bot ends the call at Meta", report["ended_by"], "terminated")

    async def _a_permission_is_asked_for(self) -> None:
        """Meta's double takes pywa's request only if it is one of Meta's to the letter."""
        await self._send({"type": "text", "id": "wamid.text", "text": {"body": "Call me"}})
        line = await self._bot.wait_for_line("the permission request", lambda line: "graph: POST" in line and "/messages" in line)
        self.checks.equal("Meta takes pywa's permission request", line.split()[-1], "200")

    async def _a_permitted_call_is_placed(self) -> None:
        callee = {"number": CALLER, "after_seconds": 1, "speech": str(write_tone(TONE)), "repeat": True, "seconds": 3}
        async with self._client.post(self._simulator + "/callees", data=json.dumps(callee)) as response:
            self.checks.equal("somebody waits to be called", response.status, 201)
        await self._permit()
        report = await within(30, "the placed call", self._callee_report())
        self.checks.equal("the callee hangs up", report.get("ended_by"), "caller")
        self._heard_the_tone("the callee hears the agent", report)
        self.checks.equal("the phone objects to nothing", report.get("objections"), [])
        call = await self._ended("callee_hung_up")
        self.checks.equal("the call is the business's", call["direction"], "business_initiated")

    async def _permit(self) -> None:
        """The person accepts the request: Meta's reply to the bot."""
        now = int(time.time())
        reply = {"response": "accept", "response_source": "user_action", "expiration_timestamp": now + 600}
        await self._send({
            "id": "wamid.interop", "type": "interactive", "context": {"from": "12025550199", "id": "wamid.asked"},
            "interactive": {"type": "call_permission_reply", "call_permission_reply": reply},
        })  # fmt: skip

    async def _send(self, message: dict) -> None:
        """A message of the person: Meta's webhook to the bot."""
        message = {"from": CALLER, "timestamp": str(int(time.time()))} | message
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "12025550199", "phone_number_id": PHONE_NUMBER_ID},
            "contacts": [{"profile": {"name": "Example Caller"}, "wa_id": CALLER, "user_id": f"US.{CALLER}"}],
            "messages": [message],
        }
        entry = {"id": "100000000000001", "changes": [{"field": "messages", "value": value}]}
        raw = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
        digest = hmac.new(APP_SECRET.encode(), raw, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={digest}"}
        async with self._client.post(self._bot_url + "/whatsapp", data=raw, headers=headers) as response:
            self.checks.equal(f"pywa takes {message['id']}", response.status, 200)

    async def _call(self, **order) -> dict:
        async with self._client.post(self._simulator + "/calls", data=json.dumps(order)) as response:
            text = await response.text()
            if response.status != 200:
                raise RuntimeError(f"the simulator's call: {response.status} {text}")
            return json.loads(text)

    async def _callee_report(self) -> dict:
        while True:
            async with self._client.get(f"{self._simulator}/callees/{CALLER}") as response:
                if calls := (await response.json())["calls"]:
                    return calls[0]
            await asyncio.sleep(0.1)

    async def _live(self, state: str) -> dict:
        async def wait() -> dict:
            while True:
                async with self._patchcord("GET", "/v1/calls?state=live") as response:
                    for call in (await response.json())["calls"]:
                        if call["state"] == state:
                            return call
                await asyncio.sleep(0.05)

        return await within(20, f"a call that is {state}", wait())

    async def _ended(self, reason: str) -> dict:
        """The record of the last call once it has this reason."""

        async def wait() -> dict:
            while True:
                async with self._patchcord("GET", "/v1/calls?limit=1") as response:
                    calls = (await response.json())["calls"]
                if calls and calls[0]["reason"] == reason:
                    return calls[0]
                await asyncio.sleep(0.05)

        call = await within(20, f"a call that ended with {reason}", wait())
        self.checks.check(f"the service records {reason}", True)
        return call

    def _patchcord(self, method: str, path: str):
        return self._client.request(method, self._api + path, headers={"Authorization": f"Bearer {KEY}"})

    def _heard_the_tone(self, name: str, report: dict) -> None:
        with wave.open(str(ROOT / report["heard_file"])) as heard:
            samples = numpy.frombuffer(heard.readframes(heard.getnframes()), numpy.int16)[-16_000:]
        spectrum = numpy.abs(numpy.fft.rfft(samples * numpy.hanning(len(samples))))
        loudest = float(numpy.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()])
        self.checks.check(name, abs(loudest - TONE) < 10, f"{loudest:.0f} Hz")

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("the pywa bot of examples/pywa", Scenario, ALL_WITHIN)
