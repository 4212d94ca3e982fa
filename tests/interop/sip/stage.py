"""The stage of every scenario: `patchcord simulate` with its WhatsApp callers, and a service whose agent is a phone."""

import asyncio
import json
import urllib.request
from pathlib import Path

from deadline import stop_all, within
from places import tcp_port
from processes import SCRATCH, Child, media_ports

FOLDER = SCRATCH / "sip"


class Stage:
    """Everything that a scenario starts; it all stops at the end."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._stops = []
        self.service = Child("patchcord-sip")

    async def start(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self._webhook = tcp_port()
        self._simulator = Child("simulate-sip")
        places = ("--listen", "127.0.0.1:0", "--graph-listen", "127.0.0.1:0", "--output", str(SCRATCH / "simulate-sip"))
        webhook = f"http://127.0.0.1:{self._webhook}/webhooks/whatsapp"
        await self._simulator.start(str(self._program), "simulate", *places, "--webhook", webhook)
        self.stops_with(self._simulator)
        line = await self._simulator.wait_for_line("the simulator", lambda line: line.startswith("The phone:"))
        self.page = next(word for word in line.split() if word.startswith("http://")).rstrip("/")

    def stops_with(self, child: Child) -> None:
        self._stops.append(child.stop)

    async def stop(self) -> None:
        await stop_all(self._stops)

    async def serve(
        self, agent: str, sip: str = "", ip: str = "127.0.0.1", route: str = "", sections: str = "", tls: bool = False
    ) -> str:
        """A service whose callers reach this agent; the one before it ends. The keys are lines of TOML. Gives where it
        listens for SIP over UDP."""
        if self.service.lines:
            await self.service.stop()
        self.service = Child("patchcord-sip")
        for file in FOLDER.glob("patchcord.db*"):
            file.unlink()
        listen = [f"udp:{ip}:0"] + ([f"tls:{ip}:0"] if tls else [])
        (FOLDER / "patchcord.toml").write_text(f"""
[http]
listen = "127.0.0.1:{self._webhook}"
[media]
listen = ["{ip}"]
ports = "{media_ports()}"
workers = 1
allow_private = true
[whatsapp]
graph_url = "{await self._printed("graph_url")}"
verify_token = "verify"
app_secrets = ["{await self._printed("app_secrets")}"]
[[whatsapp.numbers]]
phone_number_id = "{await self._printed("phone_number_id")}"
access_token = "{await self._printed("access_token")}"
route = "reception"
[routes.reception]
agent = "{agent}"
fallback = ["prompt:goodbye"]
{route}
[sip]
listen = {json.dumps(listen)}
{sip}
{sections}
[store]
path = "{FOLDER / 'patchcord.db'}"
[recordings]
dir = "{FOLDER / 'recordings'}"
[log]
format = "json"
""")
        self.stops_with(self.service)
        await self.service.start(str(self._program), "serve", "--config", str(FOLDER / "patchcord.toml"))
        await self.service.wait_for_line("the service to be ready", lambda line: "http.address" in line)
        said = "SIP phones are called from udp:"
        line = await self.service.wait_for_line("SIP", lambda line: said in line)
        return json.loads(line)["fields"]["message"].removeprefix(said)

    async def call(self, seconds: float, digits: str = "", speech: Path | None = None) -> dict:
        """A WhatsApp user calls, says this, and hangs up after so long; the report of the call."""
        order = {"seconds": seconds, "digits": digits, "repeat": True} | ({"speech": str(speech)} if speech else {})
        body = json.dumps(order).encode()
        request = urllib.request.Request(f"{self.page}/calls", data=body, method="POST")
        place = lambda: json.load(urllib.request.urlopen(request, timeout=90))
        return await within(90, "the call", asyncio.to_thread(place))

    def said(self, text: str) -> bool:
        """Whether the log has it."""
        return any(text in line for line in self.service.lines)

    async def recording(self) -> Path:
        """The file of the service's first recording, once it is whole."""
        line = await self.service.wait_for_line("the recording", lambda line: "recording.id" in line)
        return FOLDER / "recordings" / f"{json.loads(line)['fields']['recording.id']}.opus"

    async def _printed(self, key: str) -> str:
        line = await self._simulator.wait_for_line(key, lambda line: key in line)
        return line.split('"')[1]


def objections(call: dict) -> list[str]:
    """What was wrong with the line to the caller. A service that got no processor for 200 ms skips frames, and the
    timestamps jump: then the machine is at fault, and no packet is missing."""
    return [objection for objection in call["objections"] if not objection.startswith("timestamp ")]
