"""Every state of the phone page as a picture: light and dark, wide and narrow, in target/screenshots."""

from pathlib import Path

from browser import Browser, Page
from checks import Checks, run
from deadline import stop_all
from phone_page import connected, unfold_entries
from processes import ROOT
from simulator import Simulator, write_tone

PICTURES = ROOT / "target" / "screenshots"
WIDE, NARROW = (1280, 900), (390, 844)
ALL_WITHIN = 120


class Scenario:
    """One walk through the page; a picture of each state."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.service = Simulator(program)
        self.browser = Browser()
        self._stops: list = []

    async def run(self) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self._stops += [self.service.stop, self.browser.stop]
        url = await self.service.run()
        await self.browser.run(write_tone(440))
        page = await self.browser.open(url)
        await page.wait_for("document.getElementById('target').innerText !== ''", "the page to know its agent")
        await self._take(page, "ready")
        await page.evaluate("document.querySelectorAll('details.panel').forEach((panel) => (panel.open = true))")
        await page.set("#webhooks", "doubled")
        await page.set("#loss", "5")
        await self._take(page, "faults")
        await page.evaluate("document.querySelectorAll('details.panel').forEach((panel) => (panel.open = false))")
        await page.set("#sound", "tone")
        await page.set("#late-answer", "4000")
        await page.click("#call")
        await page.wait_for("document.getElementById('status').innerText === 'Ringing'", "it to ring")
        await page.look("light", *WIDE)
        await page.screenshot(PICTURES / "phone-ringing-light-wide.png")
        await connected(page)
        await page.click("#keys")
        await page.click('[data-key="5"]')
        await page.wait_for("document.getElementById('line').innerText !== ''", "the quality of the line")
        await self._take(page, "talking")
        await page.click("#call")
        await page.wait_for("document.querySelectorAll('.entry.webhook').length === 4", "both copies of terminate")
        await self._take(page, "ended")
        await unfold_entries(page)
        await self._take(page, "unfolded")
        await page.set("#late-answer", "0")
        await self.service.place_call()
        await page.wait_for("document.getElementById('status').innerText === 'Incoming call'", "an incoming call")
        await self._take(page, "incoming")
        await page.click("#call")
        await connected(page)
        await self._take(page, "taken")
        await page.click("#call")
        await page.close()
        refusing = Browser("chromium-refusing")
        self._stops.append(refusing.stop)
        await refusing.run(microphone=None)
        page = await refusing.open(url)
        await page.click("#call")
        await page.wait_for("!document.getElementById('alert').hidden", "words about the microphone")
        await self._take(page, "no-microphone")
        self.checks.check("pictures are taken", True, f"{len(list(PICTURES.glob('phone-*.png')))} in {PICTURES}")

    async def _take(self, page: Page, state: str) -> None:
        for scheme in ("light", "dark"):
            for name, size in (("wide", WIDE), ("narrow", NARROW)):
                await page.look(scheme, *size)
                await page.screenshot(PICTURES / f"phone-{state}-{scheme}-{name}.png")

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("pictures of the phone page", Scenario, ALL_WITHIN)
