"""The console in real browsers: agents answer a WhatsApp call, a supervisor whispers; tones say who hears whom."""

import re
from pathlib import Path
from urllib.parse import urlparse

from browser import AXE
from checks import Checks, run
from stage import Stage

ALL_WITHIN = 240
ANSWERED_WITHIN_MS = 300


class Scenario:
    def __init__(self, _readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.stage = Stage(program, "console")
        self.service = self.stage.service

    async def run(self) -> None:
        await self.stage.set()
        await self._no_key_is_kept()
        await self.stage.ana.be_available()
        await self._screen("idle")
        call = await self._answer_in_one_of_two_tabs()
        await self._mute_hold_and_keys()
        await self._another_network()
        await self._reload()
        await self._transfer_to_ben()
        await self._supervisor()
        await self._transfer_to_the_queue()
        await self._end(call)
        await self._recording()
        await self._caller_who_leaves_the_queue()
        await self._every_language()
        self._only_our_own_host()

    async def _no_key_is_kept(self) -> None:
        page = self.stage.ana.page
        places = "[{...localStorage}, {...sessionStorage}, document.cookie, location.href]"
        kept = await page.evaluate(f"JSON.stringify({places})")
        self.checks.check("no storage, cookie or address has the key", "patchcord_" not in kept, kept)

    async def _answer_in_one_of_two_tabs(self) -> str:
        ana, caller = self.stage.ana, self.stage.caller
        other = await ana.new_page()
        await ana.sign_in(self.stage.address, other)
        call = await self.stage.call()
        await ana.rings()
        await ana.rings(other)
        await self._screen("ringing")
        await ana.page.wait_for_function("() => document.title.includes('☎')")
        self.checks.check("both tabs ring, and the title says it", True)
        took = await ana.answer()
        self.checks.check("from click to sound both ways", took <= ANSWERED_WITHIN_MS, f"{took:.0f} ms")
        await other.get_by_text("was answered in another tab").wait_for()
        self.checks.check("the other tab stops ringing and says why", await other.locator(".ring").is_hidden())
        await other.close()
        await ana.hears("caller")
        await caller.hears("ana")
        self.checks.check("caller and agent hear each other", True)
        await self._screen("call")
        return call

    async def _mute_hold_and_keys(self) -> None:
        ana, caller = self.stage.ana, self.stage.caller
        await ana.page.keyboard.press("m")
        await ana.status("You are muted")
        await caller.hears()
        self.checks.check("a muted agent is not heard", True)
        await ana.page.keyboard.press("m")
        await caller.hears("ana")
        await ana.page.keyboard.press("h")
        await ana.status("On hold")
        await caller.hears()
        await ana.hears()
        self.checks.check("on hold neither hears the other", True)
        await ana.page.keyboard.press("h")
        await caller.hears("ana")
        await ana.page.keyboard.press("k")
        await ana.page.keyboard.press("5")
        await ana.page.locator(".keypad-pressed", has_text="5").wait_for()
        await self._screen("keypad")
        await ana.press("Keypad")
        await caller.press("4")
        await ana.page.get_by_text("The caller pressed 4").wait_for()
        self.checks.check("keys go both ways", True)
        await ana.page.get_by_label("Notes").fill("Order 4711 arrived damaged.")
        await ana.page.get_by_text("Saved").wait_for()
        self.checks.check("notes are saved", True)

    async def _another_network(self) -> None:
        ana, caller = self.stage.ana, self.stage.caller
        await ana.page.evaluate("changeNetwork()")
        await ana.status("You hear each other")
        await ana.hears("caller")
        await caller.hears("ana")
        self.checks.check("ICE restarts on another network, and the sound goes on", True)

    async def _reload(self) -> None:
        ana, caller = self.stage.ana, self.stage.caller
        await ana.page.reload()
        await ana.give_key()
        await ana.status("You hear each other")
        await ana.hears("caller")
        await caller.hears("ana")
        self.checks.check("a page that reloads is back in the call", True)
        notes = await ana.page.get_by_label("Notes").input_value()
        self.checks.equal("… with its notes", notes, "Order 4711 arrived damaged.")

    async def _transfer_to_ben(self) -> None:
        ana, ben, caller = self.stage.ana, self.stage.ben, self.stage.caller
        await ben.be_available()
        await ana.page.keyboard.press("t")
        dialog = ana.page.get_by_role("dialog")
        await dialog.wait_for()
        await self._screen("transfer")
        await dialog.get_by_role("button", name="Transfer").click()
        await ben.rings()
        await ben.answer()
        await ben.hears("caller")
        await caller.hears("ben")
        await ana.page.get_by_role("heading", name="Wrapping up").wait_for()
        self.checks.check("a transfer: the second agent has the caller, and the first one wraps up", True)

    async def _supervisor(self) -> None:
        ben, lead, caller = self.stage.ben, self.stage.lead, self.stage.caller
        await lead.page.locator(".row", has_text="With ben").wait_for()
        await self._screen("floor", lead)
        await lead.press("Listen")
        await lead.hears("ben", "caller")
        await ben.hears("caller")
        self.checks.check("a supervisor who listens hears both, and nobody hears them", True)
        await lead.page.locator(".monitor").get_by_role("button", name="Whisper").click()
        await ben.hears("caller", "lead")
        await caller.hears("ben")
        self.checks.check("whispers are heard by the agent alone", True)
        await self._screen("whisper", lead)
        await lead.page.locator(".monitor").get_by_role("button", name="Join").click()
        await caller.hears("ben", "lead")
        await ben.hears("caller", "lead")
        self.checks.check("a supervisor who joins is heard by all", True)
        await lead.press("Leave")
        await caller.hears("ben")

    async def _transfer_to_the_queue(self) -> None:
        ana, ben, caller = self.stage.ana, self.stage.ben, self.stage.caller
        await ana.page.get_by_role("heading", name="Waiting for a call").wait_for()
        await ben.page.keyboard.press("t")
        dialog = ben.page.get_by_role("dialog")
        await dialog.get_by_label("Queue", exact=True).first.check()
        await dialog.get_by_role("button", name="Transfer").click()
        await ana.rings()
        await ana.answer()
        await ana.hears("caller")
        await caller.hears("ana")
        await ben.page.get_by_role("heading", name="Wrapping up").wait_for()
        self.checks.check("a transfer to the queue: the next agent has the caller", True)

    async def _end(self, call: str) -> None:
        ana, lead = self.stage.ana, self.stage.lead
        await self.stage.meta.terminate(call)
        await ana.page.get_by_role("heading", name="Wrapping up").wait_for()
        await self._screen("wrap-up")
        await lead.page.get_by_text("No call is live.").wait_for()
        self.checks.check("a caller who hangs up leaves the agent to the wrap-up and the floor empty", True)

    async def _recording(self) -> None:
        page = self.stage.ana.page
        await page.locator(".history summary").first.click()
        await page.locator(".recording button").first.click()
        drawn = """() => {
            const canvas = document.querySelector(".waveform");
            if (!canvas?.width) return false;
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return pixels.filter((value, index) => index % 4 === 3 && value > 0).length > 500;
        }"""
        await page.wait_for_function(drawn, polling=100, timeout=10_000)
        self.checks.check("the recording is fetched, drawn and played", True)
        await self._screen("recording")

    async def _caller_who_leaves_the_queue(self) -> None:
        ana, ben, lead = self.stage.ana, self.stage.ben, self.stage.lead
        await ben.be_away()
        await ana.page.locator(".availability .state-idle").wait_for()
        call = await self.stage.call()
        await ana.rings()
        await self.stage.meta.terminate(call)
        await ana.page.get_by_text("hung up.").wait_for()
        await ana.page.get_by_role("heading", name="Waiting for a call").wait_for()
        counted = lead.page.locator(".figure", has_text="Abandoned").filter(has=lead.page.locator("dd", has_text="1"))
        await counted.wait_for()
        self.checks.check("a caller who leaves the queue stops the ring, and is counted", True)

    async def _every_language(self) -> None:
        """No word is missing, and the longest ones fit on the smallest phone."""
        page = await self.stage.ana.new_page()
        await page.set_viewport_size({"width": 360, "height": 740})
        await page.goto(f"{self.stage.address}/console")
        table = await page.evaluate("async () => ({...await import('/console/words.js')})")
        languages, words = [language["code"] for language in table["LANGUAGES"]], table["WORDS"]
        holes = {key: [set(re.findall(r"{\w+}", text)) for text in texts] for key, texts in words.items()}
        unlike = [key for key, found in holes.items() if found.count(found[0]) != len(languages)]
        self.checks.equal(f"{len(words)} words are there in {', '.join(languages)}", unlike, [])
        for language in languages:
            await page.goto(f"{self.stage.address}/console?lang={language}")
            await page.locator("#key").fill(self.stage.ana.key)
            await page.locator("form button").click()
            await page.locator(".app").wait_for()
            width = await page.evaluate("document.documentElement.scrollWidth")
            self.checks.check(f"{language} fits on a phone", width <= 360, f"{width} px")
        await page.close()

    async def _screen(self, name: str, person=None) -> None:
        """Nothing for axe-core to find."""
        page = (person or self.stage.ana).page
        await page.evaluate(f"() => {{ {AXE.read_text()} }}")
        found = await page.evaluate("async () => (await axe.run()).violations.map(({ id }) => id)")
        self.checks.equal(f"axe-core finds nothing on the screen {name!r}", found, [])

    def _only_our_own_host(self) -> None:
        ours = urlparse(self.stage.address).netloc
        for person in self.stage.consoles:
            hosts = {urlparse(url).netloc for url in person.requests if not url.startswith(("blob:", "data:"))}
            self.checks.equal(f"{person.name}'s page asks no other host", hosts, {ours})
            self.checks.equal(f"{person.name}'s page breaks no rule of its CSP and has no error", person.complaints, [])
            secrets = [url for url in person.requests if "patchcord_" in url or "token=" in url]
            self.checks.equal(f"no address of {person.name}'s page has a secret", secrets, [])

    async def clean_up(self) -> None:
        await self.stage.strike()


if __name__ == "__main__":
    run("The console in Chromium", Scenario, ALL_WITHIN)
