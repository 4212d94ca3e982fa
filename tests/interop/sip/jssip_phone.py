"""JsSIP in Chromium is the agent: the page of docs/sip.md registers over wss, answers, presses keys, holds, transfers, hangs
up."""

import asyncio
import re
import socket
import sys
from pathlib import Path

from aiohttp import web

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "chromium"))

from bundle import bundle
from checks import Checks, run
from deadline import stop_all, within
from meta import Meta
from people import Caller, Person, playwright_for
from processes import ROOT, SCRATCH, Child, Service
from tls_front import TlsFront

DOCUMENT = ROOT / "docs" / "sip.md"
NPM = ROOT / "target" / "interop-npm"
PASSWORD = "a password for ana"
# The page of the document under a driver's eyes: what happens in it, and its call.
WATCHES = """
window.seen = [];
const Original = JsSIP.UA;
JsSIP.UA = class extends Original {
    constructor(...options) {
        super(...options);
        for (const name of ["connected", "registered", "registrationFailed", "newRTCSession"])
            this.on(name, ({ cause, session }) => {
                seen.push(cause ? `${name}: ${cause}` : name);
                if (session) watch(session);
            });
    }
};
function watch(session) {
    window.session = session;
    for (const name of ["confirmed", "ended", "failed", "hold", "unhold"])
        session.on(name, ({ originator, cause }) => seen.push([name, originator, cause].filter(Boolean).join(" ")));
}
window.refer = (target) =>
    new Promise((done) => {
        const eventHandlers = {};
        for (const name of ["requestFailed", "accepted", "failed"]) eventHandlers[name] = () => done(name);
        session.refer(target, { eventHandlers });
    });
window.restartIce = () => new Promise((done, failed) => session.renegotiate({ rtcOfferConstraints: { iceRestart: true } }, done) || failed());
"""
# Chromium turns a caller's keys into the tones of a telephone, and hold music has notes.
HEARS_TONES = """(wanted) => {
    const tones = window.TONES;
    window.TONES = Object.fromEntries(wanted.map((hz) => [hz, hz]));
    const heard = voicesHeard();
    window.TONES = tones;
    return heard.length === wanted.length;
}"""
KEY_5, HOLD_NOTE = [770, 1336], [261.63]


class Phone(Person):
    """Somebody with JsSIP in a page."""

    async def open(self, url: str) -> None:
        await self.page.goto(url)

    async def sees(self, what: str, seconds: float = 30) -> None:
        """Waits until this has happened in the page, and forgets it."""
        taken = "what => { const at = seen.indexOf(what); if (at >= 0) seen.splice(0, at + 1); return at >= 0; }"
        try:
            await self.page.wait_for_function(taken, arg=what, polling=50, timeout=seconds * 1000)
        except Exception as error:
            raise RuntimeError(f"{self.name}'s page saw {await self.page.evaluate('seen')} and not {what!r}") from error

    async def click(self, button: str) -> None:
        await self.page.locator(f"#{button}").click()


class Scenario:
    """One phone and its calls, one after another."""

    def __init__(self, program: Path) -> None:
        self.checks = Checks()
        self.meta = Meta()
        self.service = Service(program)
        self.caller, self.ana = Caller("caller"), Phone("ana")
        self._stops: list = []

    async def run(self) -> None:
        await self._start()
        await self._registers()
        call_id = await self._is_called()
        await self._presses_keys()
        await self._holds()
        await self._restarts_ice()
        await self._hangs_up(call_id)
        await self._is_hung_up_on()
        await self._transfers()
        self.checks.equal("no script of the page fails", self.ana.complaints, [])

    async def clean_up(self) -> None:
        await stop_all(self._stops)

    async def _registers(self) -> None:
        await self.ana.open(f"{self.pages}/wrong")
        await self.ana.sees("registrationFailed: Rejected")
        self.checks.check("JsSIP: a wrong password is refused", True)
        await self.ana.open(f"{self.pages}/right")
        await self.ana.sees("registered")
        self.checks.check("JsSIP: the phone registers", True)

    async def _is_called(self) -> str:
        call_id = await self._call()
        await self.caller.hears("ana")
        await self.ana.hears("caller")
        self.checks.check("JsSIP: the phone answers, and both hear each other and nobody else", True)
        return call_id

    async def _call(self) -> str:
        calling = asyncio.create_task(self.caller.call(self.meta, self.service_url))
        try:
            await self.ana.sees("newRTCSession")
            await self.ana.click("answer")
            await self.ana.sees("confirmed remote")
        except BaseException:
            calling.cancel()
            raise
        return await within(30, "the call to be accepted", calling)

    async def _presses_keys(self) -> None:
        for how in ("INFO", "RFC2833"):
            pressing = asyncio.create_task(self._hears_tones(self.caller, KEY_5))
            for _ in range(3):
                await self.ana.page.evaluate("how => session.sendDTMF('5', { transportType: how, duration: 400 })", how)
            await pressing
            self.checks.check(f"JsSIP: the caller hears a key that was sent by {how}", True)
        pressing = asyncio.create_task(self._hears_tones(self.ana, KEY_5))
        await self.caller.press("555")
        await pressing
        self.checks.check("JsSIP: the phone hears the caller's keys", True)

    async def _hears_tones(self, person: Person, tones: list[float]) -> None:
        await person.page.wait_for_function(HEARS_TONES, arg=tones, polling=50, timeout=30_000)

    async def _holds(self) -> None:
        await self.ana.click("hold")
        await self.ana.sees("hold local")
        await self._hears_tones(self.caller, HOLD_NOTE)
        await self.caller.hears()
        self.checks.check("JsSIP: a caller on hold hears the music and nobody", True)
        await self.ana.click("hold")
        await self.ana.sees("unhold local")
        await self.caller.hears("ana")
        await self.ana.hears("caller")
        self.checks.check("JsSIP: after it both hear each other again", True)

    async def _restarts_ice(self) -> None:
        before = await self.ana.page.evaluate("session.connection.remoteDescription.sdp.match(/ice-ufrag:(.*)/)[1]")
        await within(30, "ICE to restart", self.ana.page.evaluate("restartIce()"))
        after = await self.ana.page.evaluate("session.connection.remoteDescription.sdp.match(/ice-ufrag:(.*)/)[1]")
        self.checks.check("JsSIP: ICE restarts", before != after)
        await self.caller.hears("ana")
        await self.ana.hears("caller")
        self.checks.check("JsSIP: the call goes on over the new path", True)

    async def _hangs_up(self, call_id: str) -> None:
        await self.ana.click("hangUp")
        await self.ana.sees("ended local Terminated")
        await self.meta.wait_for(call_id, "terminate")
        self.checks.check("JsSIP: the phone hangs up, and the call ends at Meta", True)

    async def _is_hung_up_on(self) -> None:
        call_id = await self._call()
        await self.ana.hears("caller")
        await self.meta.terminate(call_id)
        await self.ana.sees("ended remote Terminated")
        self.checks.check("JsSIP: the caller hangs up, and the phone's call ends", True)

    async def _transfers(self) -> None:
        other = Child("sipp-transfer")
        self._stops.append(other.stop)
        port = free_port()
        await other.start("sipp", "-sn", "uas", "-i", "127.0.0.1", "-p", str(port), "-m", "1", "-nostdin", "-timeout", "60")
        call_id = await self._call()
        await self.ana.hears("caller")
        refused = await within(30, "the refusal", self.ana.page.evaluate("refer('sip:premium@192.0.2.1')"))
        self.checks.equal("JsSIP: a transfer to a stranger is refused", refused, "requestFailed")
        await self.ana.hears("caller")
        done = await within(60, "the transfer", self.ana.page.evaluate(f"refer('sip:200@127.0.0.1:{port}')"))
        self.checks.equal("JsSIP: the caller is handed over to another phone", done, "accepted")
        await self.ana.sees("ended remote Terminated")
        await self.meta.terminate(call_id)
        self.checks.equal("JsSIP: the other phone has a whole call", await within(60, "SIPp to end", other.process.wait()), 0)

    async def _start(self) -> None:
        await self.meta.start()
        self._stops.append(self.meta.stop)
        await self._serve_pages()
        folder = SCRATCH / "jssip"
        folder.mkdir(exist_ok=True)
        sections = f"""
[sip]
listen = ["udp:127.0.0.1:0"]
websocket = true
refer_to = ["sip:*@127.0.0.1"]
[[sip.users]]
name = "ana"
password = "{PASSWORD}"
"""
        self._stops.append(self.service.stop)
        self.service.http = f'allow_origins = ["{self.pages}"]'
        self.service_url = await self.service.run(self.meta.graph_url, "sip-user:ana", "", sections, folder)
        self.meta.webhook_url = f"{self.service_url}/webhooks/whatsapp"
        front = TlsFront(folder / "front")
        self.socket_url = f"wss://127.0.0.1:{await front.start(int(self.service_url.rpartition(':')[2]))}/sip"
        self._stops.append(front.stop)
        playwright = await playwright_for(self._stops)
        for person in (self.caller, self.ana):
            self._stops.append(person.stop)
            # The front's authority is unknown to Chromium.
            await person.start(playwright, ignore_https_errors=True)

    async def _serve_pages(self) -> None:
        application = web.Application()
        script = bundle(NPM, "jssip", "JsSIP") + WATCHES
        application.router.add_get("/jssip.js", lambda _: web.Response(text=script, content_type="text/javascript"))
        application.router.add_get("/{password}", self._page)
        runner = web.AppRunner(application)
        await runner.setup()
        self._stops.append(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.pages = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _page(self, request: web.Request) -> web.Response:
        """The document's page, as printed, but for where and who."""
        page = re.search(r"^```html\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)[1]
        password = PASSWORD if request.match_info["password"] == "right" else "a guess"
        for printed, real in (
            ("wss://calls.example.com/sip", self.socket_url),
            ("sip:ana@calls.example.com", "sip:ana@127.0.0.1"),
            ("a long password", password),
        ):
            if printed not in page:
                raise RuntimeError(f"{printed} is not in the page of {DOCUMENT}")
            page = page.replace(printed, real)
        return web.Response(text=page, content_type="text/html")


def free_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    run(__doc__, lambda _, program: Scenario(program), 240)
