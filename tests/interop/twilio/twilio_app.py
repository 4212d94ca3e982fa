"""The apps of examples/twilio: Twilio's validators take every request of ours, and Twilio's REST clients control its calls."""

import asyncio
import json
import os
from pathlib import Path

import aiohttp

from checks import Checks, run
from deadline import stop_all, within
from heard import objections, seconds_of
from processes import ROOT, SCRATCH, Child, free_tcp_port, media_ports
from simulator import Simulator, write_tone

TONE, OCTAVE = 440, 880
"""Hertz of what callers say, which the app echoes, and of what it repeats."""
REPEATED = 8
"""Seconds that the app sends at once."""
ACCOUNT, TOKEN = "AC0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"
PUBLIC = "https://bot.example.com"
CALLER = "12025550143"
PYTHON, NODE_FOLDER = ROOT / "target/venv-twilio/bin/python", ROOT / "target/interop-twilio-npm"
SDKS = {
    "Python": ([PYTHON, "-u", ROOT / "examples/twilio/app.py"], [PYTHON, "-u", Path(__file__).with_name("sdk.py")]),
    "Node": (["node", NODE_FOLDER / "app.mjs"], ["node", NODE_FOLDER / "sdk.mjs"]),
}
ALL_WITHIN = 300

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
agent = "twiml:http://127.0.0.1:{app}{path}"
twilio_url = "{public}{path}"
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
        self._program, self._folder = program, SCRATCH / "twilio"
        self._stops: list = []

    async def run(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tone, self._port = str(write_tone(TONE)), free_tcp_port()
        self._api = f"http://127.0.0.1:{self._port}"
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self._stops.append(self._client.close)
        simulator = Simulator(self._program)
        self._stops.append(simulator.stop)
        self._simulator = (await simulator.run("--webhook", self._api + "/webhooks/whatsapp")).rstrip("/")
        graph = await simulator.wait_for_line("the Graph URL", lambda line: "graph_url" in line)
        self._graph = graph.split('"')[1]
        for language, (app, sdk) in SDKS.items():
            print(f"Twilio's SDK for {language}:")
            await self._start(language, app, sdk)
            await self._an_unsigned_request_is_refused()
            await self._a_caller_presses_a_key_and_hears_the_stream()
            await self._the_sdk_controls_a_live_call()
            await self._the_sdk_places_a_call()
            await self._serve("/talk")
            await self._keys_reach_the_stream_and_clear_takes_effect()
            await self._the_app_hangs_up()

    async def _start(self, language: str, app: list, sdk: list) -> None:
        self._app, self._app_port = Child(f"twilio-app-{language}"), free_tcp_port()
        os.environ.update(
            PORT=str(self._app_port), TWILIO_PUBLIC_BASE_URL=PUBLIC, TWILIO_AUTH_TOKEN=TOKEN, TWILIO_ACCOUNT_SID=ACCOUNT,
            PATCHCORD_URL=self._api, APP_URL=PUBLIC,
        )  # fmt: skip
        self._stops.append(self._app.stop)
        await self._app.start(*map(str, app))
        await self._app.wait_for_line("the app to be ready", lambda line: "Running on" in line, 60)
        pipe = asyncio.subprocess.PIPE
        self._sdk = await asyncio.create_subprocess_exec(*map(str, sdk), stdin=pipe, stdout=pipe)
        self._stops.append(self._stop_of(self._sdk))
        await self._serve("/voice")

    async def _serve(self, path: str) -> None:
        """The service with callers for this path of the app; the one before it ends."""
        if self.service.lines:
            await self.service.stop()
        self.service = Child("patchcord-twilio")
        for left in self._folder.glob("patchcord.db*"):
            left.unlink()
        values = {"port": self._port, "ports": media_ports(), "graph": self._graph, "folder": self._folder, "path": path}
        values |= {"app": self._app_port, "public": PUBLIC, "account": ACCOUNT, "token": TOKEN}
        config = self._folder / "patchcord.toml"
        config.write_text(CONFIG.format(**values))
        self._stops.append(self.service.stop)
        await self.service.start(str(self._program), "serve", "--config", str(config))
        await self.service.wait_for_line("the service to be ready", lambda line: "http.address" in line)

    async def _an_unsigned_request_is_refused(self) -> None:
        app = f"http://127.0.0.1:{self._app_port}"
        async with self._client.post(app + "/voice", data={"CallSid": "CA0"}) as response:
            self.checks.equal("the app refuses a request that is not signed", response.status, 403)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        async with self._client.get(app + "/media", headers=upgrade) as response:
            self.checks.equal("and an upgrade", response.status, 403)

    async def _a_caller_presses_a_key_and_hears_the_stream(self) -> None:
        report = await self._call(digits="1", seconds=8)
        asked = [line.split() for line in self._app.lines if line.split()[:1] == ["voice"]]
        self.checks.check("Twilio's validator takes our webhook", len(asked) >= 1 and asked[0][2] == "ringing", str(asked))
        self.checks.check("and the request with the digits", "menu 1" in self._app.lines)
        starts = [line for line in self._app.lines if line.startswith("start")]
        same = len(starts) == 1 and starts[0].split()[1] == asked[0][1] and '"plan": "gold"' in starts[0].replace('":"', '": "')
        self.checks.check("and the upgrade of its stream, with the call's id and parameters", same, str(starts))
        echo = seconds_of(report, TONE)
        self.checks.check("the caller hears the app's echo", echo > 3, f"{echo:.2f} s")
        self.checks.equal("the line to the caller is whole", objections(report), [])
        self.checks.equal("the caller hangs up", report["ended_by"], "caller")
        await self._app.wait_for_line("the end of the stream", lambda line: line == "stop")
        await self._app.wait_for_line("its status callback", lambda line: line == "stream-stopped")
        events = [line for line in self._app.lines if line.startswith("stream-")]
        self.checks.equal("the stream's status callback is signed, and told of both ends", events, ["stream-started", "stream-stopped"])

    async def _the_sdk_controls_a_live_call(self) -> None:
        calling = asyncio.create_task(self._call(digits="1", seconds=60))
        sid = await self._stream(2)
        self.checks.equal("calls.list() has the call", await self._ask("list", sid), [sid])
        call = await self._ask("fetch", sid)
        self.checks.equal("fetch() shows it", (call["sid"], call["status"], call["direction"]), (sid, "in-progress", "inbound"))
        await self._ask("redirect", sid)
        await self._app.wait_for_count("stop", 2, 20)
        await self._app.wait_for_line("the redirected call", lambda line: line == f"voice {sid} in-progress", 20)
        self.checks.check("update(url) leads the caller to another document", True)
        await self._ask("play", sid)
        report = await within(30, "the end after the prompt", calling)
        self.checks.equal("update(twiml) plays a prompt, and the call ends behind it", report["ended_by"], "terminated")
        await within(10, "fetch() to show it as completed", self._until_completed(sid))
        self.checks.check("fetch() shows it as completed", True)
        calling = asyncio.create_task(self._call(digits="1", seconds=60))
        await self._ask("hangup", await self._stream(3))
        report = await within(20, "the end", calling)
        self.checks.equal('update(status="completed") hangs up', report["ended_by"], "terminated")
        unknown = await self._ask("hangup", "CA" + "0" * 32)
        self.checks.equal("an unknown call is an exception of the SDK", unknown, {"code": 20404, "status": 404})

    async def _the_sdk_places_a_call(self) -> None:
        callee = {"number": CALLER, "after_seconds": 1, "speech": self._tone, "repeat": True, "seconds": 6, "digits": "1"}
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

    async def _keys_reach_the_stream_and_clear_takes_effect(self) -> None:
        already = len(self._app.lines)
        report = await self._call(digits="1555#", seconds=8)
        said = [line for line in self._app.lines[already:] if line.startswith(("key", "mark"))]
        keys = [f"key {digit}" for digit in "1555#"]
        self.checks.equal("the app gets the caller's keys, and its mark behind clear", said, keys + ["mark repeated"])
        repeated, echo = seconds_of(report, OCTAVE), seconds_of(report, TONE)
        self.checks.check("the caller hears what the app repeats, until clear", 0.2 < repeated < REPEATED - 4, f"{repeated:.2f} of {REPEATED} s")
        self.checks.check("and its echo afterwards", echo > 3, f"{echo:.2f} s")

    async def _the_app_hangs_up(self) -> None:
        report = await self._call(digits="*", seconds=30)
        self.checks.equal("the app closes its stream, which ends the call", report["ended_by"], "terminated")

    async def _stream(self, nth: int) -> str:
        """The call's id in the stream that the app got as its `nth`."""
        starts = lambda: [line.split()[1] for line in self._app.lines if line.startswith("start")]
        await self._app.wait_for_line(f"stream {nth}", lambda _: len(starts()) >= nth, 20)
        return starts()[nth - 1]

    async def _until_completed(self, sid: str) -> None:
        """The caller knows of the end before the service has Meta's word that it does."""
        while (await self._ask("fetch", sid))["status"] != "completed":
            pass

    async def _ask(self, method: str, argument: str):
        self._sdk.stdin.write(f"{method} {argument}\n".encode())
        line = await within(20, f"the SDK's {method}", self._sdk.stdout.readline())
        return json.loads(line)

    async def _call(self, **order) -> dict:
        order |= {"from": CALLER, "speech": self._tone, "repeat": True}
        async with self._client.post(self._simulator + "/calls", data=json.dumps(order)) as response:
            text = await response.text()
            if response.status != 200:
                raise RuntimeError(f"the simulator's call: {response.status} {text}")
            return json.loads(text)

    def _stop_of(self, sdk: asyncio.subprocess.Process):
        async def stop_sdk() -> None:
            sdk.stdin.close()
            await sdk.wait()

        return stop_sdk

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("the apps of examples/twilio, with Twilio's SDKs", Scenario, ALL_WITHIN)
