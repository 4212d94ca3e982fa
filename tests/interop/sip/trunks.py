"""SIPp and Kamailio as trunks: servers with passwords, servers that take no calls, and one that calls a person on WhatsApp."""

import asyncio
import json
import urllib.request
from pathlib import Path

from checks import Checks
from checks import run as run_checks
from deadline import within
from kamailio import Kamailio
from sipp import Sipp
from stage import Stage, objections

USER, PASSWORD = "patchcord", "secret of the trunk"
PERSON = "12025550143"


class Trunks:
    """The scenarios, one after another: each has a service and servers of its own."""

    def __init__(self, program: Path) -> None:
        self.checks = Checks()
        self._stage = Stage(program)

    @property
    def service(self):
        return self._stage.service

    async def run(self) -> None:
        await self._stage.start()
        await self._asked("asks_for_password", "a 401 is answered, and every request shows the proof")
        # SIPp looks at the form of this proof only, and Kamailio below at the proof.
        await self._asked("proxy_asks_for_password", "a 407 is answered, and every request shows the proof")
        await self._fails_over()
        await self._busy_is_final()
        await self._kamailio()
        await self._calls()

    async def clean_up(self) -> None:
        await self._stage.stop()

    async def _asked(self, file: str, name: str) -> None:
        server = await self._server(file)
        await self._serve([server.port])
        await self._answered(f"SIPp: {name}", server)

    async def _fails_over(self) -> None:
        first, second = await self._server("unavailable"), await self._server("uas")
        await self._serve([first.port, second.port])
        await self._answered("SIPp: 503 of one server, and the next one answers", second)
        self.checks.equal("  the first has its ACK", await first.end(), 0)

    async def _busy_is_final(self) -> None:
        first, second = await self._server("busy"), await self._server("uas")
        await self._serve([first.port, second.port])
        await self._stage.call(2)
        self.checks.equal("SIPp: 486 of one server is final", await first.end(), 0)
        self.checks.check("  the log says so", self._stage.said("SIP 486 Busy"))
        self.checks.check("  the next one is not called", second.process.returncode is None)
        await second.stop()

    async def _kamailio(self) -> None:
        """It asks for the password by 407, and stays in the path of the dialog."""
        phone = await self._server("answers")
        for password, name in [(PASSWORD, "the password"), ("guess", "a wrong one")]:
            proxy = Kamailio(self._stage, phone.port, password)
            await proxy.run()
            await self._serve([proxy.port])
            if password == PASSWORD:
                await self._answered(f"Kamailio: {name} is taken", phone)
                # It takes the ACK of its 407 itself.
                ours = ["INVITE", "INVITE", "ACK", "BYE"]
                self.checks.equal("  it has seen every request", proxy.passed("whatsapp"), ours)
            else:
                await self._stage.call(2)
                said = "SIP 407 Authentication Required: username or password is wrong"
                self.checks.check(f"Kamailio: {name} ends the attempt", self._stage.said(said))
            await proxy.stop()

    async def _calls(self) -> None:
        caller = Sipp(self._stage, "calls_a_person")
        await self._person()
        keys = 'allow = ["127.0.0.1"]\nmay_call = true\nheaders_to_parameters = { X-Ticket = "ticket" }'
        service = await self._serve([caller.port], keys)
        await caller.run(service, "-s", PERSON)
        self.checks.equal("SIPp: a trunk asks for us, calls a person, and hangs up", await caller.end(), 0)
        report = (await self._person_reports())[-1]
        ended = (report["ended_by"], objections(report))
        self.checks.equal("  the line to the person is whole to its end", ended, ("terminated", []))

    async def _server(self, file: str) -> Sipp:
        server = Sipp(self._stage, file)
        await server.run()
        return server

    async def _serve(self, ports: list[int], keys: str = "") -> str:
        targets = json.dumps([f"sip:127.0.0.1:{port}" for port in ports])
        # SIPp's scenarios wait for no OPTIONS.
        account = f'username = "{USER}"\npassword = "{PASSWORD}"\nkeepalive = 0'
        sections = f'[[sip.trunks]]\nname = "pbx"\ntargets = {targets}\n{account}\n{keys}'
        return await self._stage.serve("sip-trunk:pbx/200", sections=sections)

    async def _answered(self, name: str, server: Sipp) -> None:
        call = await self._stage.call(2)
        self.checks.equal(name, await server.end(), 0)
        ended = (call["ended_by"], objections(call))
        self.checks.equal("  the line to the caller is whole to its end", ended, ("caller", []))

    async def _person(self) -> None:
        """Somebody who picks up after two seconds."""
        order = {"number": PERSON, "after_seconds": 2, "seconds": 30}
        await self._ask("POST", "/callees", json.dumps(order).encode())

    async def _person_reports(self) -> list[dict]:
        while not (reports := (await self._ask("GET", f"/callees/{PERSON}"))["calls"]):
            await asyncio.sleep(0.1)
        return reports

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> dict:
        request = urllib.request.Request(f"{self._stage.page}{path}", data=body, method=method)
        ask = lambda: json.load(urllib.request.urlopen(request, timeout=20))
        return await within(20, path, asyncio.to_thread(ask))


if __name__ == "__main__":
    run_checks(__doc__, lambda _, program: Trunks(program), 180)
