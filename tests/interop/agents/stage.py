"""The stage of every client: `patchcord simulate` with its WhatsApp callers, a service, and the app that is its agent."""

import asyncio
import json
import urllib.request
from pathlib import Path

from deadline import stop_all, within
from processes import ROOT, SCRATCH, Child, free_tcp_port, media_ports
from simulator import Simulator
from tones import write_tone

FOLDER = SCRATCH / "agents"
CALLER = 440
"""Hertz of what every caller says."""
PYTHON = ROOT / "target" / "venv-agents" / "bin" / "python"

CONFIG = """
[http]
listen = "127.0.0.1:{port}"
[media]
listen = ["127.0.0.1"]
ports = "{ports}"
workers = 1
allow_private = true
[whatsapp]
graph_url = "{graph_url}"
verify_token = "verify"
app_secrets = ["{app_secrets}"]
[[whatsapp.numbers]]
phone_number_id = "{phone_number_id}"
access_token = "{access_token}"
route = "reception"
[routes.reception]
agent = "{agent}"
{route}
[prompts]
dir = "{folder}/prompts"
[recordings]
dir = "{folder}/recordings"
[store]
path = "{folder}/patchcord.db"
[log]
format = "json"
"""


class Stage:
    """Everything that a scenario starts; it all stops at the end."""

    def __init__(self, program: Path) -> None:
        self._program, self._stops = program, []
        self.service = Child("patchcord-agents")

    @property
    def url(self) -> str:
        """Of the service, whose port stays the same."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self._tone = write_tone(FOLDER / "caller.wav", CALLER, 16_000)
        self._port = free_tcp_port()
        self._simulator = Simulator(self._program)
        self._stops.append(self._simulator.stop)
        self._page = (await self._simulator.run("--webhook", f"{self.url}/webhooks/whatsapp")).rstrip("/")

    async def stop(self) -> None:
        await stop_all(self._stops)

    async def app(self, name: str, *command: str, ready: str) -> tuple[Child, int]:
        """Starts a client, which listens on the port in its environment, and waits until it says so; the port."""
        app, port = Child(name), free_tcp_port()
        self._stops.append(app.stop)
        await app.start("/usr/bin/env", f"PORT={port}", "PYTHONUNBUFFERED=1", *map(str, command))
        await app.wait_for_line(f"{name} to be ready", lambda line: ready in line, 60)
        return app, port

    async def serve(self, agent: str, route: str) -> None:
        """A service whose callers reach this agent; the one before it ends. The keys of the route are lines of TOML."""
        if self.service.lines:
            await self.service.stop()
        self.service = Child("patchcord-agents")
        for left in FOLDER.glob("patchcord.db*"):
            left.unlink()
        keys = ("graph_url", "app_secrets", "phone_number_id", "access_token")
        printed = {key: await self._printed(key) for key in keys}
        places = {"port": self._port, "ports": media_ports(), "folder": FOLDER}
        file = FOLDER / "patchcord.toml"
        file.write_text(CONFIG.format(**printed, **places, agent=agent, route=route))
        self._stops.append(self.service.stop)
        await self.service.start(str(self._program), "serve", "--config", str(file))
        await self.service.wait_for_line("the service to be ready", lambda line: "http.address" in line)

    async def call(self, seconds: float, digits: str = "") -> dict:
        """A WhatsApp user calls, says a tone, presses keys after a second, and hangs up in the end; the report."""
        order = {"seconds": seconds, "digits": digits, "speech": str(self._tone), "repeat": True}
        request = urllib.request.Request(f"{self._page}/calls", json.dumps(order).encode(), method="POST")
        place = lambda: json.load(urllib.request.urlopen(request, timeout=90))
        return await within(90, "the call", asyncio.to_thread(place))

    async def _printed(self, key: str) -> str:
        """What the simulator wants in the configuration of its service."""
        line = await self._simulator.wait_for_line(key, lambda line: key in line)
        return line.split('"')[1]
