"""`<Dial>` of an app that answers TwiML: baresip and SIPp are called by `<Sip>` and `<Number>`, and the app learns how it went."""

import asyncio
from pathlib import Path

from aiohttp import web

from baresip import Baresip
from checks import Checks
from checks import run as run_checks
from deadline import within
from places import tcp_port
from processes import SCRATCH
from sipp import Sipp
from stage import Stage, objections
from tones import course, write_tone

# One tone per person.
VOICES = {"C": 600, "A": 1000}

SECTIONS = """
[twilio]
account_sid = "AC0123456789abcdef0123456789abcdef"
auth_token = "0123456789abcdef0123456789abcdef"
{dial_number}
[egress]
allow = ["127.0.0.1/32", "{ip}/32"]
"""


class App:
    """Answers with one `<Dial>`, and with a prompt once that is over."""

    def __init__(self) -> None:
        self.nouns = ""
        self.dialled: asyncio.Queue = asyncio.Queue()
        self.url = f"http://127.0.0.1:{tcp_port()}"

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.post("/voice", self._voice), web.post("/dialled", self._dialled)])
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", int(self.url.rpartition(":")[2])).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _voice(self, _request: web.Request) -> web.Response:
        return self._say(f'<Dial action="/dialled" timeout="20">{self.nouns}</Dial>')

    async def _dialled(self, request: web.Request) -> web.Response:
        await self.dialled.put(dict(await request.post()))
        return self._say("<Play>prompt:goodbye</Play>")

    def _say(self, verbs: str) -> web.Response:
        return web.Response(text=f"<Response>{verbs}</Response>", content_type="text/xml")


class Dials:
    """The scenarios, one after another: each has a service and phones of its own."""

    def __init__(self, program: Path) -> None:
        self.checks, self._stage, self._app = Checks(), Stage(program), App()

    @property
    def service(self):
        return self._stage.service

    async def run(self) -> None:
        await self._stage.start()
        await self._app.start()
        self._caller = write_tone(SCRATCH / "caller.wav", VOICES["C"], 16_000)
        await self._a_phone_that_hangs_up()
        await self._a_caller_who_hangs_up()
        await self._two_phones()
        await self._a_busy_phone()

    async def clean_up(self) -> None:
        await self._app.stop()
        await self._stage.stop()

    async def _a_phone_that_hangs_up(self) -> None:
        phone = await self._baresip("alice")
        await self._serve(phone.ip, f"<Sip>{phone.uri}</Sip>")
        calling = asyncio.create_task(self._stage.call(30, speech=self._caller))
        await phone.established()
        await asyncio.sleep(4)
        await phone.tell("hangup")
        dialled = await self._dialled()
        call = await calling
        self._heard("baresip by <Sip>", call, phone)
        found = (dialled["DialCallStatus"], int(dialled["DialCallDuration"]) in range(3, 7))
        self.checks.equal("  it hangs up, and the app learns how long it talked", found, ("completed", True))
        self.checks.equal("  the app's next document ends the call", call["ended_by"], "terminated")

    async def _a_caller_who_hangs_up(self) -> None:
        phone = await self._baresip("2002")
        pattern = f'dial_number = "sip:{{number}}@{phone.ip}:{phone.port}"'
        await self._serve(phone.ip, "<Number>2002</Number>", pattern)
        call = await self._stage.call(5, speech=self._caller)
        await phone.closed()
        self._heard("baresip by <Number>", call, phone)
        self.checks.equal("  the caller hangs up, and so does the phone", call["ended_by"], "caller")
        self.checks.check("  the app is not asked for more", self._app.dialled.empty())

    async def _two_phones(self) -> None:
        rings, answers = Sipp(self._stage, "cancelled"), await self._baresip("alice")
        await rings.run()
        await self._serve(answers.ip, f"<Sip>{rings.uri}</Sip><Sip>{answers.uri}</Sip>")
        call = await self._stage.call(5, speech=self._caller)
        await answers.closed()
        self._heard("baresip and SIPp ring together, and baresip answers", call, answers)
        self.checks.equal("  SIPp is cancelled", await rings.end(), 0)

    async def _a_busy_phone(self) -> None:
        phone = Sipp(self._stage, "busy")
        await phone.run()
        await self._serve("127.0.0.1", f"<Sip>{phone.uri}</Sip>")
        call = await self._stage.call(20)
        self.checks.equal("SIPp is busy, and the app learns it", (await self._dialled())["DialCallStatus"], "busy")
        self.checks.equal("  its refusal is acknowledged", await phone.end(), 0)
        self.checks.equal("  the caller is with the app again, which ends the call", call["ended_by"], "terminated")

    async def _baresip(self, name: str) -> Baresip:
        phone = Baresip(self._stage, name, VOICES["A"])
        await phone.run()
        return phone

    async def _serve(self, ip: str, nouns: str, dial_number: str = "") -> None:
        self._app.nouns = nouns
        sections = SECTIONS.format(ip=ip, dial_number=dial_number)
        await self._stage.serve(f"twiml:{self._app.url}/voice", ip=ip, sections=sections)

    async def _dialled(self) -> dict:
        return await within(30, "the action of the <Dial>", self._app.dialled.get())

    def _heard(self, name: str, call: dict, phone: Baresip) -> None:
        """Ringback comes before, and the prompt behind."""
        heard = course(Path(call["heard_file"]), VOICES).strip("_-")
        self.checks.equal(f"{name}: the caller hears the phone", heard, "A")
        self.checks.equal("  the line to the caller is whole", objections(call), [])
        self.checks.equal("  the phone hears the caller", course(phone.heard_file, VOICES).strip("_"), "C")


if __name__ == "__main__":
    run_checks(__doc__, lambda _, program: Dials(program), 200)
