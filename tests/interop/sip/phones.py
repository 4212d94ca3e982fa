"""SIPp and baresip are the agent of a simulated WhatsApp caller: they answer, refuse, are cancelled, hold and hear keys."""

import asyncio
import json
import math
import re
import socket
import struct
import urllib.request
import wave
from pathlib import Path

from checks import Checks
from checks import run as run_checks
from deadline import stop_all, within
from processes import SCRATCH, Child, media_ports

HERE = Path(__file__).parent
RATE = 8_000
TONE_HZ = 1000
# As Debian's package wants it. The order of the modules counts.
BARESIP = """\
poll_method epoll
sip_listen {ip}:{port}
audio_player aufile,{folder}/heard.wav
audio_source aufile,{folder}/tone.wav
audio_alert aufile,/dev/null
ausrc_srate {rate}
auplay_srate {rate}
ausrc_channels 1
auplay_channels 1
module_path /usr/lib/baresip/modules
module stdio.so
module g711.so
module aufile.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
"""


class Phones:
    """The scenarios, one after another: each has a service and a phone of its own."""

    def __init__(self, program: Path) -> None:
        self.checks = Checks()
        self._program = program
        self._stops = []
        self.service = Child("patchcord-sip")

    async def run(self) -> None:
        await self._start_simulator()
        await self._answers()
        await self._refuses()
        await self._is_cancelled()
        await self._baresip()

    async def clean_up(self) -> None:
        await stop_all(self._stops)

    async def _answers(self) -> None:
        phone = await self._sipp("answers", "-sn", "uas")
        await self._serve(f"sip:200@{self._at}")
        call = await self._call(2)
        self.checks.equal("SIPp: the caller talks and hangs up", (call["ended_by"], call["objections"]), ("caller", []))
        self.checks.equal("SIPp: answered, acknowledged and ended with BYE", await self._end_of(phone), 0)

    async def _refuses(self) -> None:
        phone = await self._sipp("busy", "-sf", str(HERE / "busy.xml"))
        await self._serve(f"sip:200@{self._at}")
        await self._call(2)
        self.checks.equal("SIPp: a refusal is acknowledged", await self._end_of(phone), 0)
        said = any("SIP 486 Busy" in line for line in self.service.lines)
        self.checks.check("SIPp: the log says that the phone is busy", said)

    async def _is_cancelled(self) -> None:
        phone = await self._sipp("cancelled", "-sf", str(HERE / "cancelled.xml"))
        await self._serve(f"sip:200@{self._at}", "ring_timeout = \"1s\"")
        await self._call(3)
        self.checks.equal("SIPp: a phone that rings too long is cancelled", await self._end_of(phone), 0)

    async def _baresip(self) -> None:
        ip, folder = own_ip(), SCRATCH / "baresip"
        folder.mkdir(exist_ok=True)
        port, control = free_port(ip, socket.SOCK_DGRAM), free_port("127.0.0.1", socket.SOCK_STREAM)
        write_tone(folder / "tone.wav")
        (folder / "config").write_text(BARESIP.format(ip=ip, port=port, folder=folder, rate=RATE, control=control))
        account = f"<sip:alice@{ip}:{port}>;regint=0;answermode=auto;audio_codecs=PCMU,PCMA;dtmfmode=rtpevent\n"
        (folder / "accounts").write_text(account)
        (folder / "contacts").write_text("")
        phone = Child("baresip")
        self._stops.append(phone.stop)
        await phone.start("stdbuf", "-oL", "baresip", "-f", str(folder), "-v")
        await phone.wait_for_line("baresip to be ready", lambda line: "baresip is ready" in line)
        await self._serve(f"sip:alice@{ip}:{port}", ip=ip)
        calling = asyncio.create_task(self._call(14, "12#"))
        await phone.wait_for_line("the call", lambda line: "Call established" in line)
        await asyncio.sleep(4)
        await command(control, "hold")
        await asyncio.sleep(4)
        await command(control, "resume")
        call = await calling
        heard = tone_shares(Path(call["heard_file"]))
        # Seconds in which the phone's tone is all there is, or not there at all.
        course = "".join("T" if share > 0.95 else "-" if share < 0.05 else "" for share in heard)
        course = re.sub(r"(.)\1+", r"\1", course)
        self.checks.equal("baresip: the caller hears the phone, the hold prompt, and the phone again", course, "T-T")
        self.checks.equal("baresip: the line to the caller is whole", call["objections"], [])
        keys = [key for line in phone.lines for key in re.findall(r"received event: '(.)' \(end=1\)", line)]
        self.checks.equal("baresip: the caller's keys arrive", "".join(keys), "12#")

    async def _start_simulator(self) -> None:
        self._webhook = free_port("127.0.0.1", socket.SOCK_STREAM)
        self._simulator = Child("simulate-sip")
        self._stops.append(self._simulator.stop)
        places = ("--listen", "127.0.0.1:0", "--graph-listen", "127.0.0.1:0", "--output", str(SCRATCH / "simulate-sip"))
        webhook = f"http://127.0.0.1:{self._webhook}/webhooks/whatsapp"
        await self._simulator.start(str(self._program), "simulate", *places, "--webhook", webhook)
        line = await self._simulator.wait_for_line("the simulator", lambda line: line.startswith("The phone:"))
        self._page = next(word for word in line.split() if word.startswith("http://")).rstrip("/")

    async def _printed(self, key: str) -> str:
        line = await self._simulator.wait_for_line(key, lambda line: key in line)
        return line.split('"')[1]

    async def _serve(self, agent: str, sip: str = "", ip: str = "127.0.0.1") -> None:
        """A service whose callers reach this phone; the one before it ends."""
        if self.service.lines:
            await self.service.stop()
        self.service = Child("patchcord-sip")
        self._stops.append(self.service.stop)
        folder = SCRATCH / "sip"
        folder.mkdir(exist_ok=True)
        for file in folder.glob("patchcord.db*"):
            file.unlink()
        (folder / "patchcord.toml").write_text(f"""
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
[sip]
listen = ["udp:{ip}:0"]
{sip}
[store]
path = "{folder / 'patchcord.db'}"
[recordings]
dir = "{folder / 'recordings'}"
[log]
format = "json"
""")
        await self.service.start(str(self._program), "serve", "--config", str(folder / "patchcord.toml"))
        await self.service.wait_for_line("the service to be ready", lambda line: "http.address" in line)

    async def _call(self, seconds: float, digits: str = "") -> dict:
        order = json.dumps({"seconds": seconds, "digits": digits}).encode()
        request = urllib.request.Request(f"{self._page}/calls", data=order, method="POST")
        place = lambda: json.load(urllib.request.urlopen(request, timeout=60))
        return await within(60, "the call", asyncio.to_thread(place))

    async def _sipp(self, name: str, *scenario: str) -> Child:
        port = free_port("127.0.0.1", socket.SOCK_DGRAM)
        self._at = f"127.0.0.1:{port}"
        phone = Child(f"sipp-{name}")
        self._stops.append(phone.stop)
        options = ("-i", "127.0.0.1", "-p", str(port), "-m", "1", "-nostdin", "-timeout", "40")
        await phone.start("sipp", *scenario, *options)
        return phone

    async def _end_of(self, phone: Child) -> int:
        return await within(45, f"{phone.name} to end", phone.process.wait())


async def command(port: int, name: str) -> None:
    """A command to baresip, as a netstring of JSON."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    text = json.dumps({"command": name})
    writer.write(f"{len(text)}:{text},".encode())
    await writer.drain()
    writer.close()


def own_ip() -> str:
    """baresip refuses the loopback interface. Connecting a UDP socket sends nothing."""
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.connect(("192.0.2.1", 9))
        return udp.getsockname()[0]


def free_port(ip: str, kind: int) -> int:
    with socket.socket(type=kind) as one:
        one.bind((ip, 0))
        return one.getsockname()[1]


def write_tone(file: Path) -> None:
    """A minute of the phone's voice."""
    samples = (round(11_000 * math.sin(2 * math.pi * TONE_HZ * at / RATE)) for at in range(60 * RATE))
    with wave.open(str(file), "wb") as tone:
        tone.setnchannels(1)
        tone.setsampwidth(2)
        tone.setframerate(RATE)
        tone.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


def tone_shares(file: Path) -> list[float]:
    """The share of the phone's tone in the energy of each second."""
    with wave.open(str(file)) as heard:
        rate, data = heard.getframerate(), heard.readframes(heard.getnframes())
    samples = struct.unpack(f"<{len(data) // 2}h", data)
    step, shares = 2 * math.cos(2 * math.pi * TONE_HZ / rate), []
    for second in range(len(samples) // rate):
        part, last, before = samples[second * rate : (second + 1) * rate], 0.0, 0.0
        for sample in part:
            last, before = sample + step * last - before, last
        power = (last * last + before * before - step * last * before) / rate**2
        energy = sum(sample * sample for sample in part) / rate
        shares.append(2 * power / energy if energy else 0.0)
    return shares


if __name__ == "__main__":
    run_checks(__doc__, lambda _, program: Phones(program), 180)
