"""The console in real browsers: agents answer a WhatsApp call, a supervisor whispers; tones say who hears whom.

Nothing here depends on how fast the machine is: each step waits for what the page shows or plays.
"""

import asyncio
import re
from pathlib import Path
from urllib.parse import urlparse

import aiohttp

from browser import AXE, VIOLATION
from checks import Checks, run
from people import WAVEFORM_IS_DRAWN, Console
from stage import Stage

ALL_WITHIN = 600
NOTES = "Order 4711 arrived damaged."


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
        await self._another_browser()
        await self._warm_transfer_to_ben()
        await self._supervisor()
        await self._transfer_to_the_queue()
        await self._blind_transfer_to_ben()
        await self._end(call)
        await self._recording()
        await self._caller_who_leaves_the_queue()
        await self._two_tabs_at_once()
        await self._microphone_refused()
        await self._plain_http()
        await self._every_language()
        await self._policy()
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
        self.checks.check("one of them answers, with sound both ways", True, f"{took:.0f} ms after the click")
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
        await ana.status("You hear each other")
        await ana.page.keyboard.press("m")
        await ana.status("You are muted")
        await caller.hears()
        self.checks.check("a muted agent is not heard", True)
        await ana.page.keyboard.press("m")
        await ana.status("You hear each other")
        await caller.hears("ana")
        await ana.page.keyboard.press("h")
        await ana.status("On hold")
        await caller.hears()
        await ana.hears()
        self.checks.check("on hold neither hears the other", True)
        await ana.page.keyboard.press("h")
        await caller.hears("ana")
        await ana.status("You hear each other")
        await ana.page.keyboard.press("k")
        await ana.page.locator(".keypad").wait_for()
        await ana.page.keyboard.press("5")
        await ana.page.locator(".keypad-pressed", has_text="5").wait_for()
        await self._screen("keypad")
        await ana.press("Keypad")
        await caller.press("4")
        await ana.page.get_by_text("The caller pressed 4").wait_for()
        self.checks.check("keys go both ways", True)
        await ana.page.get_by_label("Notes").fill(NOTES)
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
        self.checks.equal("… with its notes", notes, NOTES)

    async def _another_browser(self) -> None:
        """The same agent signs in on another machine, and takes the call there; then it comes back."""
        ana, caller = self.stage.ana, self.stage.caller
        other = Console("ana")
        await self.stage.admit(other)
        await other.sign_in(self.stage.address)
        await other.page.get_by_role("heading", name="Your call is not in this window").wait_for()
        await ana.hears("caller")
        self.checks.check("a second sign-in is told of the call and leaves it alone", True)
        await self._screen("elsewhere", other)
        await other.press("Take the call here")
        await other.hears("caller")
        await caller.hears("ana")
        await ana.page.get_by_text("Rejoin the call").wait_for()
        self.checks.check("… and can take it over", True)
        await ana.press("Rejoin the call")
        await ana.hears("caller")
        await caller.hears("ana")
        await other.stop()

    async def _warm_transfer_to_ben(self) -> None:
        ana, ben, caller = self.stage.ana, self.stage.ben, self.stage.caller
        await ben.be_available()
        await ana.status("You hear each other")
        await ana.page.keyboard.press("t")
        await ana.page.get_by_role("dialog").wait_for()
        await self._screen("transfer")
        await ana.page.keyboard.press("Escape")
        await ana.page.get_by_role("dialog").wait_for(state="detached")
        await ana.transfer("Agent", "Talk first")
        await ben.page.locator(".ring-about", has_text="Transferred to you").wait_for()
        await ben.answer()
        await ana.hears("ben")
        await ben.hears("ana")
        await caller.hears()
        self.checks.check("before a warm transfer the agents talk alone", True)
        await self._screen("consulting")
        await ana.press("Put the caller through")
        await ben.hears("caller")
        await caller.hears("ben")
        await ana.wraps_up()
        self.checks.check("… and then the second one has the caller, and the first one wraps up", True)
        await ana.page.get_by_label("Notes").fill(f"{NOTES} Ben helps.")
        await ana.page.get_by_text("Saved").wait_for()
        self.checks.check("notes are finished in the wrap-up", True)
        await ana.be_ready()

    async def _supervisor(self) -> None:
        ben, lead, caller = self.stage.ben, self.stage.lead, self.stage.caller
        await lead.page.locator(".row", has_text="With ben").wait_for()
        await lead.page.locator(".row .spark-line[d]").wait_for(state="attached")
        self.checks.check("the supervisor sees who has the caller, and the quality", True)
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
        await ben.transfer("Queue", "At once")
        await ana.rings()
        await ana.answer()
        await ana.hears("caller")
        await caller.hears("ana")
        await ben.wraps_up()
        await ben.be_ready()
        self.checks.check("a transfer to the queue: the next agent has the caller", True)

    async def _blind_transfer_to_ben(self) -> None:
        ana, ben, caller = self.stage.ana, self.stage.ben, self.stage.caller
        await ana.transfer("Agent", "At once")
        await ben.rings()
        await ben.press("Decline")
        await ana.page.get_by_text("The transfer to ben ended: declined").wait_for()
        await ana.hears("caller")
        await caller.hears("ana")
        self.checks.check("an agent who declines leaves the caller with the first one", True)
        await ana.transfer("Agent", "At once")
        await ben.rings()
        await ben.answer()
        await ben.hears("caller")
        await caller.hears("ben")
        await ana.wraps_up()
        self.checks.check("a blind transfer: the second agent has the caller", True)

    async def _end(self, call: str) -> None:
        ana, ben, lead = self.stage.ana, self.stage.ben, self.stage.lead
        await self.stage.meta.terminate(call)
        await ben.wraps_up()
        await self._screen("wrap-up", ben)
        await lead.page.get_by_text("No call is live.").wait_for()
        self.checks.check("a caller who hangs up leaves the agent to the wrap-up and the floor empty", True)
        await ben.be_ready()
        await ana.be_ready()

    async def _recording(self) -> None:
        page = self.stage.ana.page
        await page.locator(".history summary", has_text="Ben helps.").click()
        await page.locator(".recording button").first.click()
        await page.wait_for_function(WAVEFORM_IS_DRAWN, polling=100)
        self.checks.check("the recording is fetched, drawn and played", True)
        [path] = {urlparse(url).path for url in self.stage.ana.requests if "/v1/recordings/" in url}
        heard = await page.evaluate("([path, key]) => voicesRecorded(path, key)", [path, self.stage.ana.key])
        self.checks.equal("it has the caller on one side and all whom it heard on the other", heard,
                          [["caller"], ["ana", "ben", "lead"]])
        await self._screen("recording")

    async def _caller_who_leaves_the_queue(self) -> None:
        ana, ben, lead = self.stage.ana, self.stage.ben, self.stage.lead
        await ben.be_away()
        call = await self.stage.call()
        await ana.rings()
        earlier = ana.page.locator(".agent-side", has_text="Earlier calls of").locator(".history summary")
        await earlier.filter(has_text=NOTES).first.wait_for()
        self.checks.check("who rings is shown with their earlier calls", True)
        await self.stage.meta.terminate(call)
        await ana.page.get_by_text("hung up.").wait_for()
        await ana.page.get_by_role("heading", name="Waiting for a call").wait_for()
        counted = lead.page.locator(".figure", has_text="Abandoned").filter(has=lead.page.locator("dd", has_text="1"))
        await counted.wait_for()
        self.checks.check("a caller who leaves the queue stops the ring, and is counted", True)

    async def _two_tabs_at_once(self) -> None:
        ana, caller = self.stage.ana, self.stage.caller
        other = await ana.new_page()
        await ana.sign_in(self.stage.address, other)
        call = await self.stage.call()
        for page in (ana.page, other):
            await ana.rings(page)
        await asyncio.gather(*(page.evaluate("document.querySelector('.answer').click()") for page in (ana.page, other)))
        await caller.hears("ana")
        has_it = "() => voicesHeard().includes('caller')"
        tries = {asyncio.ensure_future(page.wait_for_function(has_it, polling=100)): page for page in (ana.page, other)}
        done, waiting = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
        for pending in waiting:
            pending.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        [winner] = [tries[first] for first in done]
        loser = other if winner is ana.page else ana.page
        await loser.get_by_role("heading", name="Your call is not in this window").wait_for()
        await winner.locator(".call-status", has_text="You hear each other").wait_for()
        await ana.hears("caller", page=winner)
        self.checks.check("of two tabs that answer at once one has the call", True)
        await self.stage.meta.terminate(call)
        await ana.wraps_up()
        await other.close()
        await ana.be_ready()

    async def _microphone_refused(self) -> None:
        ana, cleo = self.stage.ana, Console("cleo")
        await self.stage.admit(cleo, refuses_microphone=True)
        await cleo.sign_in(self.stage.address)
        remedy = "does not let this page use the microphone"
        await cleo.page.get_by_role("switch").click()
        await cleo.page.locator(".availability", has_text=remedy).wait_for()
        await self._screen("microphone refused", cleo)
        await ana.be_away()
        headers = {"Authorization": f"Bearer {cleo.key}"}
        async with aiohttp.ClientSession(self.stage.address, headers=headers) as client:
            async with client.put("/v1/agent/availability", json={"available": True}) as response:
                self.checks.equal("who is available all the same …", response.status, 200)
        call = await self.stage.call()
        await cleo.rings()
        await cleo.press("Answer")
        await cleo.page.locator(".toast", has_text=remedy).wait_for()
        await cleo.rings()
        self.checks.check("… and is refused the microphone is told the remedy, and the call rings on", True)
        await self.stage.meta.terminate(call)
        await cleo.page.get_by_role("heading", name="Waiting for a call").wait_for()
        await cleo.be_away()
        await cleo.stop()
        await ana.be_available()

    async def _plain_http(self) -> None:
        """A name is no localhost, so the page is not secure there."""
        cleo = Console("cleo")
        await self.stage.admit(cleo, hosts="MAP console.test 127.0.0.1")
        await cleo.sign_in(self.stage.address.replace("127.0.0.1", "console.test"))
        await cleo.page.get_by_role("switch").click()
        await cleo.page.locator(".availability", has_text="Open the console with https://").wait_for()
        self.checks.check("over plain HTTP the page says what to do", True)
        await cleo.stop()

    async def _policy(self) -> None:
        # A page of its own: the others complain of nothing.
        page = await self.stage.ana.context.new_page()
        await page.goto(f"{self.stage.address}/console")
        inline = 'const script = document.createElement("script"); script.textContent = "0"; document.head.append(script);'
        self.checks.equal("an inline script is blocked", await page.evaluate(VIOLATION % inline), "script-src-elem")
        foreign = 'fetch("http://127.0.0.1:9/").catch(() => {});'
        self.checks.equal("a request to another host is blocked", await page.evaluate(VIOLATION % foreign), "connect-src")
        await page.close()

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
