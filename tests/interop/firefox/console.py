"""The console in Firefox: an agent answers a WhatsApp caller, who is a Chromium; tones say who hears whom."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlparse

from checks import Checks, run
from deadline import TooLate, stop_all, within
from firefox import Firefox, reachable_address
from people import SCRIPT, TONES
from stage import Stage, key

ALL_WITHIN = 300
AGENT = "ana"


class Scenario:
    """One call, from the ring to the wrap-up."""

    def __init__(self, _readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.stage = Stage(program, "firefox-console")
        self.service = self.stage.service
        self.firefox = Firefox()
        self._stops = [self.stage.strike]

    async def run(self) -> None:
        self.service.media_addresses.append(reachable_address())
        await self.stage.set_without_consoles()
        self._stops.append(self.firefox.stop)
        await self.firefox.run(TONES[AGENT])
        await self._sign_in()
        call = await self._answer()
        await self._hear_each_other("caller and agent hear each other")
        await self._keys()
        await self._mute()
        await self._another_network()
        await self._hang_up(call)
        self._nothing_foreign()

    async def _sign_in(self) -> None:
        voices = f"window.TONES = {json.dumps(TONES)};\n{SCRIPT.read_text()}"
        self.page = await self.firefox.open(f"{self.stage.address}/console?lang=en", voices)
        await self.page.click("#key")
        await self.page.type(key(AGENT))
        await self.page.click("form button")
        # Until then the service refuses the switch: it does not know of the page yet.
        await self._shown(".availability .state-away", "", "the page to be connected")
        await self.page.click('[role="switch"]')
        await self._shown(".availability .state-idle", "", "the agent to be available")
        self.checks.check(f"an agent signs in, in Firefox {self.firefox.version}", True)

    async def _answer(self) -> str:
        calling = asyncio.create_task(self.stage.call())
        try:
            await self.page.click(".answer")
            call = await within(60, "the call to be accepted", calling)
        finally:
            calling.cancel()
        await self._status("You hear each other")
        offer = await self.page.evaluate("connections.at(-1).localDescription.sdp")
        candidates = [line for line in offer.splitlines() if line.startswith("a=candidate:")]
        names = sum(".local " in line for line in candidates)
        detail = f"{names} of {len(candidates)} candidates"
        self.checks.check("the agent answers, known to us by mDNS names", names > 0, detail)
        return call

    async def _hear_each_other(self, what: str) -> None:
        await self._hears("caller")
        await self.stage.caller.hears(AGENT)
        self.checks.check(what, True)

    async def _keys(self) -> None:
        await self.page.type("k5")
        await self._shown(".keypad-pressed", "5", "the agent's key")
        await self.page.click(".keypad button")
        await self.stage.caller.press("4")
        await self._shown(".call", "The caller pressed 4", "the caller's key")
        self.checks.check("keys go both ways", True)

    async def _mute(self) -> None:
        await self.page.type("m")
        await self._status("You are muted")
        await self.stage.caller.hears()
        await self.page.type("m")
        await self._hear_each_other("a muted agent is not heard, until it speaks again")

    async def _another_network(self) -> None:
        await self.page.evaluate("changeNetwork()")
        await self._status("You hear each other")
        await self._hear_each_other("ICE restarts on another network, and the sound goes on")

    async def _hang_up(self, call: str) -> None:
        await self.page.click(".controls .danger")
        await self.stage.meta.wait_for(call, "terminate")
        await self._shown("main", "Wrapping up", "the wrap-up")
        self.checks.equal("hanging up ends the call", self.stage.meta.actions(call), ["pre_accept", "accept", "terminate"])

    def _nothing_foreign(self) -> None:
        hosts = {urlparse(url).netloc for url in self.page.requests if not url.startswith(("blob:", "data:"))}
        self.checks.equal("the page asks no other host", hosts, {urlparse(self.stage.address).netloc})
        self.checks.equal("the page has no error", self.page.complaints, [])

    async def _hears(self, *names: str) -> None:
        """Waits until exactly these voices are in what the page plays."""
        wanted = json.dumps(sorted(names), separators=(",", ":"))
        await self.page.wait_for(f"JSON.stringify(voicesHeard()) === {json.dumps(wanted)}", f"the agent to hear {wanted}")

    async def _status(self, text: str) -> None:
        """Waits for this line over the call."""
        await self._shown(".call-status", text, f"the status {text!r}")

    async def _shown(self, selector: str, text: str, what: str) -> None:
        element = f"document.querySelector({json.dumps(selector)})"
        try:
            await self.page.wait_for(f"{element}?.innerText.includes({json.dumps(text)})", what)
        except TooLate as late:
            raise RuntimeError(f"{late}; the page shows {await self.page.text('body')!r}") from None

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("The console in Firefox", Scenario, ALL_WITHIN)
