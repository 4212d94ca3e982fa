"""SIPp, baresip and Kamailio around the agent's side of a simulated WhatsApp call: phones that answer, refuse, hold, transfer,
lose packets and talk in every codec, directly and through a proxy."""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from baresip import OPUS, Baresip
from certificates import Authority
from checks import Checks
from checks import run as run_checks
from kamailio import Kamailio
from processes import SCRATCH
from sipp import Sipp, many
from stage import Stage, objections
from tones import course, courses, write_tone

# One tone per person.
VOICES = {"C": 600, "A": 1000, "B": 1500}


@dataclass
class Scenario:
    """What one SIPp phone does in one call; its file checks the messages."""

    file: str
    # What is shown if its file went through.
    name: str
    # The caller hangs up after so many seconds, unless the phone does so before.
    seconds: float = 2
    # More keys of `[sip]`.
    sip: str = ""
    # In the service's log afterwards.
    logged: str = ""
    # Who ends the call, if it matters.
    ended_by: str = ""
    # More options of SIPp.
    options: tuple[str, ...] = ()


SCENARIOS = [
    Scenario("uas", "answered, acknowledged and ended with BYE", ended_by="caller"),
    Scenario("busy", "a refusal is acknowledged", logged="SIP 486 Busy"),
    Scenario("cancelled", "a phone that rings too long is cancelled", sip='ring_timeout = "1s"'),
    Scenario("answers_too_late", "a 200 that crosses the CANCEL is acknowledged, and ended", sip='ring_timeout = "1s"'),
    Scenario("wants_longer_session", "a 422 is followed with a longer session", ended_by="caller"),
    Scenario("rings_reliably", "a 183 is acknowledged with PRACK, and its SDP is the answer", ended_by="caller"),
    Scenario("holds", "held by sendonly and inactive, and back by a late offer", seconds=20, ended_by="terminated"),
    Scenario("keys", "keys by INFO; a session that is too short gets 422", seconds=20, ended_by="terminated"),
]


class Phones:
    """The scenarios, one after another: each has a service and phones of its own."""

    def __init__(self, program: Path) -> None:
        self.checks = Checks()
        self._stage = Stage(program)

    @property
    def service(self):
        return self._stage.service

    async def run(self) -> None:
        await self._stage.start()
        self._caller = write_tone(SCRATCH / "caller.wav", VOICES["C"], 16_000)
        for scenario in SCENARIOS:
            await self._sipp(scenario)
        await self._sipp_transfers()
        await self._lossy()
        for codecs in ["PCMU", "PCMA", OPUS]:
            await self._talks(codecs)
        await self._registers()
        await self._holds()
        await self._transfers()
        await self._secure()

    async def clean_up(self) -> None:
        await self._stage.stop()

    async def _sipp(self, scenario: Scenario) -> None:
        phone = Sipp(self._stage, scenario.file)
        await phone.run(*scenario.options)
        await self._stage.serve(phone.uri, scenario.sip)
        call = await self._stage.call(scenario.seconds)
        self.checks.equal(f"SIPp: {scenario.name}", await phone.end(), 0)
        if scenario.ended_by:
            ended = (call["ended_by"], objections(call))
            self.checks.equal("  the line to the caller is whole to its end", ended, (scenario.ended_by, []))
        if scenario.logged:
            self.checks.check(f"  the log says {scenario.logged!r}", self._stage.said(scenario.logged))

    async def _sipp_transfers(self) -> None:
        """Through Kamailio: every request of ours follows the route that its Record-Route made."""
        first, second = Sipp(self._stage, "transfers"), Sipp(self._stage, "uas")
        proxy = Kamailio(self._stage, first.port)
        await proxy.run()
        await first.run("-key", "refer_to", second.uri)
        await second.run()
        await self._stage.serve(proxy.uri, f'refer_to = ["{second.uri}"]')
        await self._stage.call(6)
        ends = [await first.end(), await second.end()]
        self.checks.equal("SIPp: handed over to another phone, through Kamailio", ends, [0, 0])
        ours = ["INVITE", "ACK", "NOTIFY", "NOTIFY", "BYE"]
        self.checks.equal("  Kamailio has seen every request", proxy.passed("whatsapp"), ours)

    async def _lossy(self) -> None:
        calls = 12
        # SIPp counts an INVITE that it loses as a call, and would take too few.
        phone = Sipp(self._stage, "uas", calls=2 * calls)
        await phone.run("-lost", "10")
        await self._stage.serve(phone.uri)
        reports = await many(self._stage, calls, seconds=3, per_second=6)
        good = sum(report["ended_by"] == "caller" and not objections(report) for report in reports)
        self.checks.equal("SIPp: calls whose packets are lost, one of ten, and that are answered", good, calls)

    async def _talks(self, codecs: str) -> None:
        phone = await self._baresip("alice", "A", codecs)
        await self._stage.serve(phone.uri, ip=phone.ip, route="record = true")
        call = await self._stage.call(4, speech=self._caller)
        await phone.closed()
        self._heard(f"baresip, {codecs.partition('/')[0]}", call, "A", {phone: "C"})
        recording = await self._stage.recording()
        self.checks.equal("  the recording has both", courses(recording, VOICES), ["C", "A"])

    async def _registers(self) -> None:
        """By MD5: baresip 1.0 gives up at a challenge with SHA-256, so its user has no other hash."""
        phone = Baresip(self._stage, "alice", VOICES["A"])
        ha1 = hashlib.md5(b"alice:patchcord:secret-of-alice").hexdigest()
        user = f'[[sip.users]]\nname = "alice"\nha1 = {{ md5 = "{ha1}" }}'
        registrar = await self._stage.serve("sip-user:alice", 'realm = "patchcord"', ip=phone.ip, sections=user)
        await phone.run(";auth_user=alice;auth_pass=secret-of-alice;regint=60", domain=registrar)
        await phone.wait_for_line("its registration", lambda line: "[1 binding]" in line)
        call = await self._stage.call(4, speech=self._caller)
        await phone.closed()
        self._heard("baresip registers, and its user is called", call, "A", {phone: "C"})

    async def _holds(self) -> None:
        phone = await self._baresip("alice", "A")
        await self._stage.serve(phone.uri, ip=phone.ip)
        calling = asyncio.create_task(self._stage.call(11, "12#", speech=self._caller))
        await phone.established()
        await asyncio.sleep(3)
        await phone.tell("hold")
        await asyncio.sleep(3)
        await phone.tell("resume")
        call = await calling
        await phone.closed()
        self._heard("baresip holds", call, "A-A", {})
        keys = [line.split("'")[1] for line in phone.lines if "received event: '" in line and "end=1" in line]
        self.checks.equal("  the caller's keys arrive", "".join(keys), "12#")

    async def _transfers(self) -> None:
        first, second = await self._baresip("alice", "A"), await self._baresip("bob", "B")
        await self._stage.serve(first.uri, f'refer_to = ["{second.uri}"]', ip=first.ip)
        calling = asyncio.create_task(self._stage.call(9, speech=self._caller))
        await first.established()
        await asyncio.sleep(3)
        await first.tell("transfer", second.uri)
        call = await calling
        for phone in [first, second]:
            await phone.closed()
        self._heard("baresip transfers", call, "AB", {first: "C", second: "C"})

    async def _secure(self) -> None:
        """TLS by an authority of our own, and SRTP with keys in the SDP."""
        authority = Authority(SCRATCH / "authority")
        phone = Baresip(self._stage, "alice", VOICES["A"])
        certificate, key = authority.sign("phone", phone.ip)
        both = SCRATCH / "phone.pem"
        both.write_text(certificate.read_text() + key.read_text())
        tls = f"sip_certificate {both}\nsip_cafile {authority.file}"
        await phone.run(";mediaenc=srtp-mand", transport="tls", tls=tls)
        ours, our_key = authority.sign("service", phone.ip)
        section = f'tls = {{ cert = "{ours}", key = "{our_key}", ca = "{authority.file}" }}'
        # baresip sends no requests to the sips: of a Contact.
        agent = f"sip:alice@{phone.ip}:{phone.port + 1};transport=tls;srtp=required"
        await self._stage.serve(agent, section, ip=phone.ip, tls=True)
        calling = asyncio.create_task(self._stage.call(20, speech=self._caller))
        await phone.established()
        await asyncio.sleep(4)
        await phone.tell("hangup")
        call = await calling
        self._heard("baresip, TLS and SRTP", call, "A", {phone: "C"})
        self.checks.equal("  its BYE ends the call", call["ended_by"], "terminated")

    async def _baresip(self, name: str, voice: str, codecs: str = "PCMU,PCMA") -> Baresip:
        phone = Baresip(self._stage, name, VOICES[voice], codecs)
        await phone.run()
        return phone

    def _heard(self, name: str, call: dict, by_caller: str, by_phones: dict[Baresip, str]) -> None:
        """The caller hears these voices one after the other, in one whole line; and so do the phones."""
        heard = course(Path(call["heard_file"]), VOICES).strip("_")
        self.checks.equal(f"{name}: the caller hears everybody in turn", heard, by_caller)
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        for phone, voices in by_phones.items():
            self.checks.equal(f"  {phone.name} hears", course(phone.heard_file, VOICES).strip("_"), voices)


if __name__ == "__main__":
    run_checks(__doc__, lambda _, program: Phones(program), 300)
