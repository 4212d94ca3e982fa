"""The phone page of `patchcord simulate` in Chromium: somebody calls, hears the echo, presses keys and hangs up."""

import json
from pathlib import Path

from browser import VIOLATION, Browser, Page
from checks import Checks, run
from deadline import stop_all
from processes import Agent, free_tcp_port
from simulator import Simulator, write_tone

TONE = 660
"""Hertz of what the microphone hears."""
ALL_WITHIN = 300

LOUDEST = """(async () => {
  const context = (window.ears ??= new AudioContext());
  await context.resume();
  const source = context.createMediaStreamSource(document.getElementById("agent-audio").srcObject);
  const analyser = context.createAnalyser();
  analyser.fftSize = 16384;
  analyser.smoothingTimeConstant = 0;
  source.connect(analyser);
  await new Promise((done) => setTimeout(done, 600));
  const decibels = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(decibels);
  source.disconnect();
  const loudest = decibels.reduce((best, value, at) => (value > decibels[best] ? at : best), 0);
  return [(loudest * context.sampleRate) / analyser.fftSize, decibels[loudest]];
})()"""
"""Frequency and level in dB of the loudest sound that the page plays."""

class Scenario:
    """One simulator after the other, all in one browser."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.agent = Agent(readme)
        self._program = program
        self.service = Simulator(program)
        self.browser = Browser()
        self._stops: list = []

    async def run(self) -> None:
        self._stops.append(self.browser.stop)
        await self.browser.run(write_tone(TONE))
        url = await self._start()
        await self._call_the_echo(url)
        await self._take_calls(url)
        await self._refuse_the_microphone(url)
        await self.service.stop()
        self._stops.append(self.agent.stop)
        await self.agent.run()
        await self._call_with_faults(await self._start("--agent", self.agent.url))
        await self.service.stop()
        await self._call_nobody(await self._start("--agent", f"ws://127.0.0.1:{free_tcp_port()}/call"))

    async def _start(self, *options: str) -> str:
        self.service = Simulator(self._program)
        self._stops.append(self.service.stop)
        return await self.service.run(*options)

    async def _call_the_echo(self, url: str) -> None:
        check, page = self.checks.check, await self.browser.open(url)
        await page.wait_for("document.getElementById('target').innerText !== ''", "the page to know its agent")
        self.checks.equal("the page says whom it calls", await page.text("#target"), "Agent: built-in echo")
        await self._no_barriers(page, "before the call")
        await unprocessed(page)
        await self._no_barriers(page, "with everything unfolded")
        await page.click("#call")
        await connected(page)
        check("the call is accepted", True, await stages(page))
        await self._hears_the_tone(page)
        await page.click("#mute")
        await page.wait_for("document.getElementById('mute').ariaPressed === 'true'", "mute")
        _, level = await settle(page, lambda _, level: level < -70)
        check("nothing comes back while it is muted", level < -70, f"{level:.0f} dB")
        await page.click("#mute")
        await self._hears_the_tone(page)
        await page.click("#keys")
        await page.click('[data-key="5"]')
        await page.key("#")
        await page.wait_for("document.querySelectorAll('.entry.phone strong').length >= 6", "the keys in the timeline")
        await self._no_barriers(page, "during the call")
        await unfold_entries(page)
        shown = await page.text("#entries pre")
        check("an entry unfolds to its JSON", shown.strip().startswith("{"), shown[:40])
        await page.click("#call")
        await page.wait_for("document.getElementById('status').innerText === 'You hung up'", "the end of the call")
        await page.wait_for("[...document.querySelectorAll('.webhook strong')].some(e => e.innerText === 'terminate')", "terminate")
        await self._timeline_is(page, ["connect 200", "pre_accept 200", "accept 200", "terminate 200"])
        await self._no_barriers(page, "after the call")
        self.checks.equal("the page complains of nothing", page.complaints, [])
        foreign = [request for request in page.requests if not request.startswith(url)]
        self.checks.equal("no request leaves for another host", foreign, [])
        await self._policy_is_obeyed(page)
        await page.close()

    async def _take_calls(self, url: str) -> None:
        page = await self.browser.open(url)
        await unprocessed(page)
        for relay in ("passive", "active"):
            await page.set("#relay", relay)
            await self._rings(page)
            if relay == "passive":
                await self._no_barriers(page, "while somebody calls")
            await page.click("#call")
            await connected(page)
            await self._hears_the_tone(page)
            await page.click("#call")
            await over(page, "You hung up")
            wanted = ["connect 200", "connect 200", "RINGING 200", "ACCEPTED 200", "terminate 200"]
            await self._timeline_is(page, wanted)
            self.checks.check(f"a call is taken with Meta's relay {relay}", True, await stages(page))
        await self._rings(page)
        await page.click("#decline")
        await over(page, "You declined")
        await self._timeline_is(page, ["connect 200", "connect 200", "RINGING 200", "REJECTED 200", "terminate 200"])
        await self._rings(page, ring_timeout="5s")
        await over(page, "The service hung up")
        self.checks.equal("the page complains of nothing", page.complaints, [])
        await page.close()

    async def _rings(self, page: Page, **more) -> None:
        await page.wait_for("document.getElementById('handset').dataset.reachable === 'yes'", "the page to be reachable")
        await self.service.place_call(**more)
        await page.wait_for("document.getElementById('status').innerText === 'Incoming call'", "an incoming call")
        ringing = "[...document.querySelectorAll('.webhook strong')].some(e => e.innerText === 'RINGING')"
        await page.wait_for(ringing, "the page's answer at Meta")

    async def _policy_is_obeyed(self, page: Page) -> None:
        inline = 'const script = document.createElement("script"); script.textContent = "0"; document.head.append(script);'
        blocked = await page.evaluate(VIOLATION % inline)
        self.checks.equal("an inline script is blocked", blocked, "script-src-elem")
        blocked = await page.evaluate(VIOLATION % 'fetch("http://127.0.0.1:9/").catch(() => {});')
        self.checks.equal("a request to another host is blocked", blocked, "connect-src")

    async def _refuse_the_microphone(self, url: str) -> None:
        refusing = Browser("chromium-refusing")
        self._stops.append(refusing.stop)
        await refusing.run(microphone=None)
        page = await refusing.open(url)
        await page.click("#call")
        await page.wait_for("!document.getElementById('alert').hidden", "words about the microphone")
        words = await page.text("#alert p")
        self.checks.check("a refused microphone comes with the remedy", "Allow it for this page" in words, words)
        await self._no_barriers(page, "without a microphone")
        await page.click("#alert button")
        await connected(page)
        frequency, level = await settle(page, lambda frequency, _: abs(frequency - 440) < 10)
        heard = f"{frequency:.0f} Hz at {level:.0f} dB"
        self.checks.check("the test tone works without one", abs(frequency - 440) < 10, heard)
        await refusing.stop()

    async def _call_nobody(self, url: str) -> None:
        page = await self.browser.open(url)
        await page.click("#call")
        await page.wait_for("document.querySelector('.entry.agent') !== null", "the agent in the timeline")
        said = await page.text(".entry.agent strong")
        self.checks.check("the timeline says why there is no agent", said.startswith("refused: "), said)
        await self._no_barriers(page, "without an agent")
        await page.close()

    async def _call_with_faults(self, url: str) -> None:
        page = await self.browser.open(url)
        await unprocessed(page)
        await page.set("#webhooks", "doubled")
        await page.set("#graph-error", "accept_500")
        await page.set("#loss", "5")
        await page.set("#delay", "40")
        self.checks.equal("the faults that are set are counted", await page.text("#fault-count"), "4 set")
        await page.click("#call")
        await connected(page)
        await self._hears_the_tone(page)
        await page.click("#keys")
        for key in "12#":
            await page.click(f'[data-key="{key}"]')
        await self.agent.wait_for_count("dtmf", 3)
        self.checks.check("three keys arrive at the README's agent, through 5 % loss", True)
        await page.click("#call")
        await page.wait_for("document.querySelectorAll('.entry.webhook').length === 4", "both copies of terminate")
        wanted = ["accept 200", "accept 500", "connect (copy) 200", "connect 200", "pre_accept 200"]
        await self._timeline_is(page, [*wanted, "terminate (copy) 200", "terminate 200"], is_sorted=True)
        # A page that is closed in mid-call has hung up.
        await page.set("#webhooks", "")
        await page.click("#call")
        await connected(page)
        await page.close()
        await self.agent.wait_for_count("stop", 2)
        self.checks.check("a page closed in mid-call ends the call", True)

    async def _hears_the_tone(self, page: Page) -> None:
        frequency, level = await settle(page, lambda frequency, level: abs(frequency - TONE) < 10 and level > -60)
        right = abs(frequency - TONE) < 10 and level > -60
        self.checks.check("the caller's tone comes back", right, f"{frequency:.0f} Hz at {level:.0f} dB")

    async def _timeline_is(self, page: Page, wanted: list[str], is_sorted: bool = False) -> None:
        found = await page.evaluate(
            """[...document.querySelectorAll(".entry.webhook .head, .entry.graph .head")].map((head) =>
              `${head.querySelector("strong").innerText} ${head.querySelector(".pill").innerText}`)"""
        )
        self.checks.equal("the timeline shows what Meta did", sorted(found) if is_sorted else found, wanted)

    async def _no_barriers(self, page: Page, when: str) -> None:
        for scheme in ("light", "dark"):
            for width, height in ((1280, 900), (390, 844)):
                await page.look(scheme, width, height)
                self.checks.equal(f"axe finds nothing {when}, {scheme}, {width} wide", await page.barriers(), [])
        await page.look("light", 1280, 900)

    async def clean_up(self) -> None:
        await stop_all(self._stops)


async def settle(page: Page, is_so) -> tuple[float, float]:
    """The loudest sound once it is as it should be, or after a while the one that there is."""
    for _ in range(50):
        frequency, level = await page.evaluate(LOUDEST)
        # Silence has no level at all.
        frequency, level = frequency, -1000.0 if level is None else level
        if is_so(frequency, level):
            break
    return frequency, level


async def connected(page: Page) -> None:
    await page.wait_for("document.getElementById('status').innerText === 'Connected'", "the call to be accepted", 60)


async def over(page: Page, words: str) -> None:
    await page.wait_for(f"document.getElementById('status').innerText === '{words}'", words)
    await page.wait_for("[...document.querySelectorAll('.webhook strong')].some(e => e.innerText === 'terminate')", "terminate")


async def unprocessed(page: Page) -> None:
    """Takes the microphone as it is: a steady tone is what noise suppression takes away."""
    await page.evaluate("document.querySelectorAll('details.panel').forEach((panel) => (panel.open = true))")
    await page.click("#processing")


async def unfold_entries(page: Page) -> None:
    await page.evaluate("document.querySelectorAll('.entry details').forEach((entry) => (entry.open = true))")
    await page.wait_for("document.querySelector('#entries pre')", "the JSON of an entry")


async def stages(page: Page) -> str:
    found = await page.evaluate("[...document.querySelectorAll('#stages li')].map((e) => e.innerText.replace('\\n', ' '))")
    return json.dumps(found)


if __name__ == "__main__":
    run("the phone page in Chromium", Scenario, ALL_WITHIN)
