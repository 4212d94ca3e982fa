"""The programs under test: the service itself and the README's agent, each a child with its output in a file."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import websockets

from deadline import within
from meta import ACCESS_TOKEN, APP_SECRET, PHONE_NUMBER_ID, VERIFY_TOKEN

ROOT = Path(__file__).parent.parent.parent
SCRATCH = ROOT / "target" / "interop"
SPEECH = ROOT / "tests" / "simulator" / "speech" / "caller.wav"
PORTS = 16


class Child:
    """A running program and the lines that it has written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self._changed = asyncio.Condition()

    async def start(self, *command: str, stdin: int | None = None) -> None:
        self._log = (SCRATCH / f"{self.name}.log").open("w")
        pipe = {"stdin": stdin, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, start_new_session=True, **pipe)
        self._reader = asyncio.create_task(self._read())

    async def wait_for_line(self, what: str, matches, seconds: float = 10) -> str:
        """Waits for the first line that `matches`."""
        line = await self._wait(what, lambda: next((line for line in self.lines if matches(line)), None), seconds)
        if line is None:
            raise RuntimeError(f"{self.name} ended before {what}:\n" + "\n".join(self.lines[-20:]))
        return line

    async def wait_for_count(self, text: str, count: int, seconds: float = 10) -> None:
        """Waits until so many lines are exactly `text`."""
        came = await self._wait(f"{count} × {text} from {self.name}", lambda: self.count(text) >= count, seconds)
        if not came:
            raise RuntimeError(f"{self.name} ended after {self.count(text)} × {text}")

    def count(self, text: str) -> int:
        return sum(line == text for line in self.lines)

    async def _wait(self, what: str, found, seconds: float):
        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: found() or self._reader.done())

        await within(seconds, what, wait())
        return found()

    async def stop(self) -> None:
        """Ends the program and what it has started, whatever they are doing."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        await self._reader
        await self.process.wait()

    async def _read(self) -> None:
        while line := await self.process.stdout.readline():
            text = line.decode(errors="replace").rstrip("\n")
            self._log.write(text + "\n")
            self._log.flush()
            async with self._changed:
                self.lines.append(text)
                self._changed.notify_all()
        self._log.close()
        # Whoever waits for a line must learn that none will come.
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._wake()))

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Agent(Child):
    """The agent of the README, as a reader would copy it."""

    def __init__(self, readme: Path) -> None:
        super().__init__("agent")
        self._readme = readme

    async def run(self) -> None:
        port = free_tcp_port()
        script = SCRATCH / "agent.py"
        script.write_text(python_example(self._readme.read_text()).replace("9000", str(port)))
        self.url = f"ws://127.0.0.1:{port}/call"
        await self.start(sys.executable, "-u", str(script))
        await within(10, "the README's agent to take connections", self._knock())

    async def _knock(self) -> None:
        while self.process.returncode is None:
            try:
                async with websockets.connect(self.url, subprotocols=["patchcord.v1"]):
                    return
            except OSError:
                await asyncio.sleep(0.05)
        raise RuntimeError("the README's agent ended at once:\n" + "\n".join(self.lines[-20:]))


class Service(Child):
    """The program under test, on loopback."""

    def __init__(self, program: Path) -> None:
        super().__init__("patchcord")
        self._program = program
        self.media_addresses = ["127.0.0.1"]
        self.http = ""
        """More keys of [http]."""

    async def run(
        self, graph_url: str, agent: str, route: str = "", sections: str = "", folder: Path = SCRATCH
    ) -> str:
        """Starts it and gives its HTTP address. More keys of the route and more sections are TOML lines."""
        # The calls that an earlier run left behind would be ended at this one's Graph.
        for left in folder.glob("patchcord.db*"):
            left.unlink()
        file = folder / "patchcord.toml"
        file.write_text(config(graph_url, agent, route, folder, self.media_addresses, self.http) + sections)
        await self.start(str(self._program), "serve", "--config", str(file))
        line = await self.wait_for_line("the service to be ready", lambda line: "http.address" in line)
        return "http://" + json.loads(line)["fields"]["http.address"]

    async def terminate(self, seconds: float) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await within(seconds, "the service to end after SIGTERM", self.process.wait())


def python_example(readme: str) -> str:
    """The first Python block below a heading about agents."""
    heading = re.search(r"^#+ .*agent.*$", readme, re.IGNORECASE | re.MULTILINE)
    if heading is None:
        raise RuntimeError("the README has no heading about agents")
    block = re.search(r"^```python\n(.*?)^```$", readme[heading.end():], re.DOTALL | re.MULTILINE)
    if block is None or "9000" not in block[1]:
        raise RuntimeError("the README has no Python example of an agent on port 9000")
    return block[1]


def config(graph_url: str, agent: str, route: str, folder: Path, media_addresses: list[str], http: str = "") -> str:
    return f"""
[http]
listen = "127.0.0.1:0"
{http}
[media]
listen = {json.dumps(media_addresses)}
ports = "{media_ports()}"
allow_private = true
[whatsapp]
graph_url = "{graph_url}"
verify_token = "{VERIFY_TOKEN}"
app_secrets = ["{APP_SECRET}"]
[[whatsapp.numbers]]
phone_number_id = "{PHONE_NUMBER_ID}"
access_token = "{ACCESS_TOKEN}"
route = "reception"
[routes.reception]
agent = "{agent}"
{route}
[calls]
drain_timeout = "1s"
[prompts]
dir = "{folder / 'prompts'}"
[recordings]
dir = "{folder / 'recordings'}"
[store]
path = "{folder / 'patchcord.db'}"
[log]
format = "json"
"""


def free_tcp_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def media_ports() -> str:
    """A range that begins at a port free now; the service passes over those that others hold."""
    while True:
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            first = udp.getsockname()[1]
        if first + PORTS <= 65535:
            return f"{first}-{first + PORTS}"
