"""The app of examples/twilio: Twilio's validator takes every request of ours, and Twilio's REST client controls its calls."""

import asyncio
import json
import os
import wave
from pathlib import Path

import aiohttp
import numpy

from checks import Checks, run
from deadline import stop_all, within
from processes import ROOT, SCRATCH, Child, free_tcp_port, media_ports
from simulator import Simulator, write_tone

TONE = 660
"""Hertz of what callers say; behind key 1 the app is an echo."""
ACCOUNT, TOKEN = "AC0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"
PUBLIC = "https://bot.example.com"
CALLER = "12025550143"
PYTHON = ROOT / "target/venv-twilio/bin/python"
ALL_WITHIN = 180

CONFIG = """
[http]
listen = "127.0.0.1:{port}"
[media]
listen = ["127.0.0.1"]
ports = "{ports}"
allow_private = true
[whatsapp]
graph_url = "{graph}"
verify_token = "word"
app_secrets = ["simulated-app-secret"]
[[whatsapp.numbers]]
phone_number_id = "200000000000002"
access_token = "simulated-access-token"
route = "reception"
[routes.reception]
agent = "twiml:http://127.0.0.1:{app}/voice"
twilio_url = "{public}/voice"
[twilio]
account_sid = "{account}"
auth_token = "{token}"
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
    """Meta and phones of the simulator, the app, the SDK, and the service."""

    def __init__(self, _readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.service = Child("patchcord-twilio")
        self._app, self._program = Child("twilio-app"), program
        self._stops: list = []

    async def run(self) -> None:
        await self._start()
        await self._an_unsigned_request_is_refused()
        await self._a_caller_presses_a_key_and_hears_the_stream()
        await self._the_sdk_controls_a_live_call()
        await self._the_sdk_places_a_call()

    async def _start(self) -> None:
        folder = SCRATCH / "twilio"
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("patchcord.db*"):
            left.unlink()
        ports = {"app": free_tcp_port(), "port": free_tcp_port()}
        self._app_url, self._api = (f"http://127.0.0.1:{ports[name]}" for name in ("app", "port"))
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self._stops.append(self._client.close)
        simulator = Simulator(self._program)
        self._stops.append(simulator.stop)
        self._simulator = (await simulator.run("--webhook", self._api + "/webhooks/whatsapp")).rstrip("/")
        graph = await simulator.wait_for_line("the Graph URL", lambda line: "graph_url" in line)
        values = ports | {"ports": media_ports(), "graph": graph.split('"')[1], "folder": folder}
        values |= {"public": PUBLIC, "account": ACCOUNT, "token": TOKEN}
        (folder / "patchcord.toml").write_text(CONFIG.format(**values))
        os.environ.update(
            PORT=str(ports["app"]), TWILIO_PUBLIC_BASE_URL=PUBLIC, TWILIO_AUTH_TOKEN=TOKEN, TWILIO_ACCOUNT_SID=ACCOUNT,
            PATCHCORD_URL=self._api, APP_URL=PUBLIC,
        )  # fmt: skip
        self._stops.append(self._app.stop)
        await self._app.start(str(PYTHON), "-u", str(ROOT / "examples/twilio/app.py"))
        await self._app.wait_for_line("the app to be ready", lambda line: "Running on" in line, 60)
        self._stops.append(self.service.stop)
        await self.service.start(str(self._program), "serve", "--config", str(folder / "patchcord.toml"))
        await self.service.wait_for_line("the service to be ready", lambda line: "http.address" in line)
        pipe = asyncio.subprocess.PIPE
        sdk = str(Path(__file__).with_name("sdk.py"))
        self._sdk = await asyncio.create_subprocess_exec(str(PYTHON), "-u", sdk, stdin=pipe, stdout=pipe)
        self._stops.append(self._stop_sdk)

    async def _an_unsigned_request_is_refused(self) -> None:
        async with self._client.post(self._app_url + "/voice", data={"CallSid": "CA0"}) as response:
            self.checks.equal("the app refuses a request that is not signed", response.status, 403)

    async def _a_caller_presses_a_key_and_hears_the_stream(self) -> None:
        report = await self._call(digits="1", seconds=8)
        asked = [line.split() for line in self._app.lines if line.split()[:1] == ["voice"]]
        self.checks.check("Twilio's validator takes our webhook", len(asked) >= 1 and asked[0][2] == "ringing", str(asked))
        self.checks.check("and the request with the digits", "menu 1" in self._app.lines)
        starts = [line for line in self._app.lines if line.startswith("start")]
        same = len(starts) == 1 and starts[0].split()[1] == asked[0][1] and "'plan': 'gold'" in starts[0]
        self.checks.check("and the upgrade of its stream, with the call's id and parameters", same, str(starts))
        self._heard_the_tone("the caller hears the app's echo", report)
        self.checks.equal("the phone objects to nothing", report["objections"], [])
        await self._app.wait_for_line("the end of the stream", lambda line: line == "stop")

    async def _the_sdk_controls_a_live_call(self) -> None:
        calling = asyncio.create_task(self._call(digits="1", seconds=60))
        await self._app.wait_for_count("menu 1", 2, 20)
        starts = lambda: [line.split()[1] for line in self._app.lines if line.startswith("start")]
        await within(20, "the second stream", self._until(lambda: len(starts()) == 2))
        sid = starts()[1]
        self.checks.equal("calls.list() has the call", await self._ask("list", sid), [sid])
        call = await self._ask("fetch", sid)
        self.checks.equal("fetch() shows it", (call["sid"], call["status"], call["direction"]), (sid, "in-progress", "inbound"))
        await self._ask("redirect", sid)
        await self._app.wait_for_count("stop", 2, 20)
        again = f"voice {sid} in-progress"
        await within(20, "the redirected call", self._until(lambda: again in self._app.lines))
        self.checks.check("update(url=…) leads the caller to another document", True)
        await self._ask("play", sid)
        report = await within(30, "the end after the prompt", calling)
        self.checks.equal("update(twiml=…) plays a prompt, and the call ends behind it", report["ended_by"], "terminated")
        self.checks.equal("fetch() shows it as completed", (await self._ask("fetch", sid))["status"], "completed")
        calling = asyncio.create_task(self._call(digits="1", seconds=60))
        await within(20, "the third stream", self._until(lambda: len(starts()) == 3))
        await self._ask("hangup", starts()[2])
        report = await within(20, "the end", calling)
        self.checks.equal("update(status=\"completed\") hangs up", report["ended_by"], "terminated")
        unknown = await self._ask("hangup", "CA" + "0" * 32)
        self.checks.equal("an unknown call is a TwilioRestException", unknown, {"code": 20404, "status": 404})

    async def _the_sdk_places_a_call(self) -> None:
        callee = {"number": CALLER, "after_seconds": 1, "speech": str(write_tone(TONE)), "repeat": True, "seconds": 6, "digits": "1"}
        async with self._client.post(self._simulator + "/callees", data=json.dumps(callee)) as response:
            self.checks.equal("somebody waits to be called", response.status, 201)
        call = await self._ask("place", "+" + CALLER)
        self.checks.equal("calls.create() places a call", call.get("direction"), "outbound-api")

        async def report() -> dict:
            while True:
                async with self._client.get(f"{self._simulator}/callees/{CALLER}") as response:
                    if calls := (await response.json())["calls"]:
                        return calls[0]
                await asyncio.sleep(0.1)

        report = await within(40, "the placed call", report())
        self.checks.check("the callee picks up and the app has the call", any(call.get("sid", "-") in line for line in self._app.lines))
        self.checks.equal("the callee hangs up", report.get("ended_by"), "caller")

    async def _ask(self, method: str, argument: str):
        self._sdk.stdin.write(f"{method} {argument}\n".encode())
        line = await within(20, f"the SDK's {method}", self._sdk.stdout.readline())
        return json.loads(line)

    async def _call(self, **order) -> dict:
        order |= {"from": CALLER, "speech": str(write_tone(TONE)), "repeat": True}
        async with self._client.post(self._simulator + "/calls", data=json.dumps(order)) as response:
            text = await response.text()
            if response.status != 200:
                raise RuntimeError(f"the simulator's call: {response.status} {text}")
            return json.loads(text)

    async def _until(self, is_so) -> None:
        while not is_so():
            await asyncio.sleep(0.05)

    def _heard_the_tone(self, name: str, report: dict) -> None:
        with wave.open(str(ROOT / report["heard_file"])) as heard:
            samples = numpy.frombuffer(heard.readframes(heard.getnframes()), numpy.int16)[-16_000:]
        spectrum = numpy.abs(numpy.fft.rfft(samples * numpy.hanning(len(samples))))
        loudest = float(numpy.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()])
        self.checks.check(name, abs(loudest - TONE) < 10, f"{loudest:.0f} Hz")

    async def _stop_sdk(self) -> None:
        self._sdk.stdin.close()
        await self._sdk.wait()

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("the app of examples/twilio, with Twilio's SDK", Scenario, ALL_WITHIN)
