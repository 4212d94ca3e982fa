"""Pictures of every screen of the console, light and dark, wide and narrow, into target/screenshots."""

from pathlib import Path

from checks import Checks, run
from people import WAVEFORM_IS_DRAWN
from processes import ROOT
from stage import Stage

ALL_WITHIN = 300
PICTURES = ROOT / "target" / "screenshots"
SIZES = {"wide": {"width": 1280, "height": 860}, "narrow": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")


class Scenario:
    def __init__(self, _readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.stage = Stage(program, "screenshots")
        self.service = self.stage.service

    async def run(self) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        # A pulse or a fade would make each picture another one.
        await self.stage.set(wrap_up="30s", reduced_motion="reduce")
        ana, lead = self.stage.ana, self.stage.lead
        fresh = await ana.new_page()
        await fresh.goto(f"{self.stage.address}/console?lang=en")
        await self._draw(fresh, "sign-in")
        await fresh.close()
        await self._draw(ana.page, "away")
        await ana.be_available()
        await self._draw(ana.page, "idle")
        call = await self.stage.call()
        await ana.rings()
        await self._draw(ana.page, "ringing")
        await ana.answer()
        await ana.status("You hear each other")
        await ana.page.get_by_label("Notes").fill("Order 4711 arrived damaged.")
        await ana.hears("caller")
        await ana.page.get_by_text("Saved").wait_for()
        await ana.page.locator(".quality .level-good").first.wait_for()
        await self._draw(ana.page, "call")
        await ana.press("Keypad")
        await self._draw(ana.page, "keypad")
        await ana.press("Keypad")
        ben = self.stage.ben
        await ben.be_available()
        await ana.page.keyboard.press("t")
        await ana.page.get_by_role("dialog").wait_for()
        await self._draw(ana.page, "transfer")
        await ana.page.keyboard.press("Escape")
        await ana.page.get_by_role("dialog").wait_for(state="detached")
        await ana.transfer("Agent", "Talk first")
        await ben.rings()
        await self._draw(ben.page, "ringing-transferred")
        await ben.answer()
        await ana.hears("ben")
        await self._draw(ana.page, "consulting")
        await ana.press("Back to the caller")
        await ana.hears("caller")
        await lead.page.locator(".row", has_text="With ana").wait_for()
        await lead.press("Whisper")
        await lead.page.get_by_text("You whisper").wait_for()
        await self._draw(lead.page, "supervisor")
        await self.stage.meta.terminate(call)
        await ana.page.get_by_role("heading", name="Wrapping up").wait_for()
        await ana.page.locator(".history summary").first.wait_for()
        await self._draw(ana.page, "wrap-up")
        await ana.be_ready()
        await ana.page.locator(".history summary").first.click()
        await ana.page.locator(".recording button").first.click()
        await ana.page.locator(".player").wait_for()
        await ana.page.wait_for_function(WAVEFORM_IS_DRAWN, polling=100)
        await self._draw(ana.page, "recording")

    async def _draw(self, page, name: str) -> None:
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            for size, viewport in SIZES.items():
                await page.set_viewport_size(viewport)
                path = PICTURES / f"console-{name}-{scheme}-{size}.png"
                await page.screenshot(path=path, full_page=name != "transfer")
        self.checks.check(f"console, {name}", True, "four pictures")

    async def clean_up(self) -> None:
        await self.stage.strike()


if __name__ == "__main__":
    run("Pictures of the console", Scenario, ALL_WITHIN)
