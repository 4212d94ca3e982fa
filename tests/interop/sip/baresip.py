"""baresip as a phone: it talks with a tone, records what it hears, and does in its calls what it is told."""

import asyncio
import json
from pathlib import Path

from deadline import within
from places import own_ip, tcp_port, udp_port
from processes import SCRATCH, Child
from stage import Stage
from tones import write_tone

# As Debian's package wants it. The order of the modules counts.
CONFIG = """\
poll_method epoll
sip_listen {ip}:{port}
{tls}
audio_source aufile,{folder}/tone.wav
audio_alert aufile,/dev/null
ausrc_srate {rate}
auplay_srate {rate}
ausrc_channels {channels}
auplay_channels {channels}
snd_path {folder}
module_path /usr/lib/baresip/modules
module stdio.so
module g711.so
module opus.so
module aufile.so
module sndfile.so
module srtp.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
"""
OPUS = "opus/48000/2"


class Baresip(Child):
    """A phone at this machine's own address, because it refuses loopback."""

    def __init__(self, stage: Stage, name: str, tone_hz: int, codecs: str = "PCMU,PCMA") -> None:
        super().__init__(f"baresip-{name}")
        self._stage, self._codecs, self._tone_hz, self._user = stage, codecs, tone_hz, name
        self._folder = SCRATCH / self.name
        self.ip = own_ip()
        # It listens to TLS at the next port.
        self.port = udp_port(self.ip)
        self._control = tcp_port()
        self.uri = f"sip:{name}@{self.ip}:{self.port}"

    async def run(self, account: str = "", transport: str = "udp", tls: str = "", domain: str = "") -> None:
        """More parameters of its account, lines of its configuration about TLS, and the registrar's address if it has one."""
        self._folder.mkdir(exist_ok=True)
        for old in self._folder.glob("dump-*.wav"):
            old.unlink()
        rate, channels = (48_000, 2) if self._codecs == OPUS else (8_000, 1)
        write_tone(self._folder / "tone.wav", self._tone_hz, rate, channels)
        places = {"ip": self.ip, "port": self.port, "folder": self._folder, "control": self._control, "tls": tls}
        (self._folder / "config").write_text(CONFIG.format(rate=rate, channels=channels, **places))
        address = f"<sip:{self._user}@{domain or f'{self.ip}:{self.port}'};transport={transport}>"
        registers = "" if domain else ";regint=0"
        options = f"{registers};answermode=auto;audio_codecs={self._codecs};dtmfmode=rtpevent{account}"
        (self._folder / "accounts").write_text(address + options + "\n")
        (self._folder / "contacts").write_text("")
        self._stage.stops_with(self)
        await self.start("stdbuf", "-oL", "baresip", "-f", str(self._folder), "-v", "-s")
        await self.wait_for_line("baresip to be ready", lambda line: "baresip is ready" in line)

    async def established(self) -> None:
        await self.wait_for_line("the call", lambda line: "Call established" in line, 30)

    async def closed(self) -> None:
        await self.wait_for_line("the end of the call", lambda line: "Call with" in line and "terminated" in line, 30)

    async def tell(self, command: str, parameter: str = "") -> None:
        """A command, as a netstring of JSON: hold, resume, hangup, sndcode, transfer, dial."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._control)
        text = json.dumps({"command": command} | ({"params": parameter} if parameter else {}))
        writer.write(f"{len(text)}:{text},".encode())
        await within(5, "baresip to take a command", writer.drain())
        writer.close()

    @property
    def heard_file(self) -> Path:
        """What it heard: whole once its call has ended."""
        return max(self._folder.glob("dump-*-dec.wav"))
