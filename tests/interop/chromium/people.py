"""People in browsers: each is a Chromium of its own, whose microphone is one tone, so the tones say who hears whom."""

import json
from pathlib import Path

import numpy
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

import sound
from browser import program
from deadline import within
from meta import Meta, new_call_id
from processes import SCRATCH

TONES = {"caller": 710, "ana": 1130, "ben": 1570, "lead": 1990, "cleo": 2410}
"""Hz. Between the notes of a scale, so that hold music has none of them."""
LOUDNESS = 8_000
SCRIPT = Path(__file__).parent / "hearing.js"


WAVEFORM_IS_DRAWN = """() => {
    const canvas = document.querySelector(".waveform");
    if (!canvas?.width) return false;
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((value, index) => index % 4 === 3 && value > 0).length > 500;
}"""


class Person:
    """A browser with a voice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def start(self, playwright, refuses_microphone: bool = False, hosts: str = "", **context_options) -> None:
        """`hosts` maps names to addresses, as Chromium's --host-resolver-rules."""
        self.browser: Browser = await playwright.chromium.launch(
            executable_path=program(),
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream" + ("=deny" if refuses_microphone else ""),
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={voice(self.name)}",
                "--autoplay-policy=no-user-gesture-required",
                f"--host-resolver-rules={hosts}",
            ],
        )
        permissions = [] if refuses_microphone else ["microphone"]
        self.context: BrowserContext = await self.browser.new_context(permissions=permissions, **context_options)
        await self.context.add_init_script(f"window.TONES = {json.dumps(TONES)};\n{SCRIPT.read_text()}")
        self.page = await self.new_page()

    async def new_page(self) -> Page:
        """One more tab."""
        page = await self.context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: "Content Security" in message.text and self.complaints.append(message.text))
        # A page in a call asks before it is left.
        page.on("dialog", lambda dialog: dialog.accept())
        return page

    async def hears(self, *names: str, seconds: float = 30, page: Page | None = None) -> None:
        """Waits until exactly these voices are in what the page plays."""
        wanted = sorted(names)
        page = page or self.page
        condition = "wanted => JSON.stringify(voicesHeard()) === JSON.stringify(wanted)"
        try:
            await page.wait_for_function(condition, arg=wanted, polling=100, timeout=seconds * 1000)
        except Exception as error:
            heard = await page.evaluate("voicesHeard()")
            raise RuntimeError(f"{self.name} hears {heard} and not {wanted}") from error

    async def stop(self) -> None:
        await self.browser.close()


class Caller(Person):
    """The WhatsApp user."""

    async def call(self, meta: Meta, address: str) -> str:
        """Calls the business; gives Meta's id of the call."""
        await self.page.goto(f"{address}/livez")
        call_id = new_call_id()
        await meta.connect(call_id, await self.page.evaluate("callerOffer()"))
        answer = (await meta.wait_for(call_id, "pre_accept")).body["session"]["sdp"]
        await self.page.evaluate("answer => callerTakesAnswer(answer)", answer)
        await meta.wait_for(call_id, "accept")
        return call_id

    async def press(self, digits: str) -> None:
        await self.page.evaluate("digits => callerPresses(digits)", digits)


class Console(Person):
    """An agent or a supervisor at `/console`."""

    key = ""

    async def sign_in(self, address: str, page: Page | None = None) -> None:
        page = page or self.page
        await page.goto(f"{address}/console?lang=en")
        await self.give_key(page)

    async def give_key(self, page: Page | None = None) -> None:
        page = page or self.page
        await page.get_by_label("API key").fill(self.key)
        await page.get_by_role("button", name="Sign in").click()
        await page.locator(".app").wait_for()

    async def be_available(self) -> None:
        await self.page.get_by_role("switch").click()
        await self.page.locator(".availability .state-idle").wait_for()

    async def be_ready(self) -> None:
        """Ends the wrap-up."""
        await self.press("I am ready")
        await self.page.locator(".availability .state-idle").wait_for()

    async def wraps_up(self) -> None:
        await self.page.get_by_role("heading", name="Wrapping up").wait_for()

    async def transfer(self, kind: str, how: str) -> None:
        """Fills the dialog in; an agent is the one whom it offers first."""
        await self.page.locator(".controls").get_by_role("button", name="Transfer").click()
        dialog = self.page.get_by_role("dialog")
        for choice in (kind, how):
            await dialog.get_by_label(choice).first.check()
        await dialog.get_by_role("button", name="Transfer").click()
        await dialog.wait_for(state="detached")

    async def be_away(self) -> None:
        await self.page.get_by_role("switch").click()
        await self.page.locator(".availability .state-away").wait_for()

    async def rings(self, page: Page | None = None) -> None:
        await (page or self.page).get_by_role("button", name="Answer").wait_for()

    async def answer(self, page: Page | None = None) -> float:
        """Clicks, and waits for sound both ways; milliseconds on the page's own clock."""
        page = page or self.page
        return await page.evaluate("answerAndMeasure()")

    async def status(self, text: str) -> None:
        """Waits for this line over the call."""
        await self.page.locator(".call-status", has_text=text).wait_for()

    async def press(self, button: str) -> None:
        await self.page.get_by_role("button", name=button, exact=True).click()


def voice(name: str) -> Path:
    """Two seconds of the person's tone, which the browser repeats; whole periods, so the seam is silent."""
    path = SCRATCH / f"voice-{name}.wav"
    time = numpy.arange(2 * sound.RATE) / sound.RATE
    sound.write_wav((LOUDNESS * numpy.sin(2 * numpy.pi * TONES[name] * time)).astype(numpy.int16), path)
    return path


async def playwright_for(stops: list):
    """Playwright, stopped with everything else."""
    playwright = await within(30, "playwright to start", async_playwright().start())
    stops.append(playwright.stop)
    return playwright
