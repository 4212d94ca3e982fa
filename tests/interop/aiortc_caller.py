"""aiortc calls a business whose number Patchcord answers: every way from the webhook to the end, and what is heard.

    aiortc_caller.py [--readme FILE] [--program FILE]

One line for each check; the exit code says whether all passed. Logs, and what a caller heard, are in target/interop.
"""

import asyncio
import time
from pathlib import Path

import sound
from checks import Checks, run
from deadline import stop_all, within
from meta import ACCESS_TOKEN, PHONE_NUMBER_ID, Meta, new_call_id
from phone import Phone
from processes import SCRATCH, SPEECH, Agent, Service
from sound import RATE

ALL_WITHIN = 100
"""Seconds for everything. Above the sum of what it takes, below a user's patience."""
LEAST_LIKENESS = 0.8
"""Two codings of Opus leave 0.95 of speech; words of somebody else have less than 0.4."""
LONGEST_ECHO = 0.6
"""Seconds from mouth to ear through service, agent and back; aiortc's own buffer is the most of it."""


class Scenario:
    """The programs, and Meta around them."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.meta = Meta()
        self.agent = Agent(readme)
        self.service = Service(program)
        self.speech = sound.read_wav(SPEECH)
        self._phones: list[Phone] = []
        self._stops: list = []

    async def run(self) -> None:
        await self._start()
        await self._webhooks_that_are_no_calls()
        await self._a_whole_call()
        await self._two_calls_at_once_in_both_dtls_roles()
        await self._stop_during_a_call()

    async def _start(self) -> None:
        await self.meta.start()
        self._stops.append(self.meta.stop)
        self._stops.append(self.agent.stop)
        await self.agent.run()
        self._stops.append(self.service.stop)
        address = await self.service.run(self.meta.graph_url, self.agent.url)
        self.meta.webhook_url = f"{address}/webhooks/whatsapp"
        self.checks.check("the service starts, and the README's agent beside it", True)

    async def _webhooks_that_are_no_calls(self) -> None:
        challenge = await self.meta.subscribe("1158201444")
        self.checks.equal("Meta's subscription check gets its challenge back", challenge, "1158201444")
        offer = await self._phone().offer()
        forged = [await self.meta.connect(new_call_id(), offer, secret) for secret in ("not-the-secret", None)]
        self.checks.equal("a forged and an unsigned webhook are refused with 401", forged, [401, 401])
        self.checks.equal("… and nothing reaches Graph", len(self.meta.requests), 0)

    async def _a_whole_call(self) -> None:
        phone = self._phone()
        offer = await phone.offer()
        count = offer.count("a=fingerprint:")
        self.checks.check("aiortc's offer has several fingerprints", count > 1, f"{count}")
        call_id, began = new_call_id(), time.monotonic()
        statuses = await asyncio.gather(*(self.meta.connect(call_id, offer) for _ in range(2)))
        self.checks.equal("a doubled connect webhook gets 200 twice", statuses, [200, 200])

        pre_accept = await self.meta.wait_for(call_id, "pre_accept")
        answer = self._check_answer(pre_accept)
        await phone.take_answer(answer)
        await phone.wait_for_state("connected")
        self.checks.check("ICE and DTLS connect", True, f"{elapsed(began)} after the webhook")
        accept = await self.meta.wait_for(call_id, "accept")
        self.checks.check("the call is accepted", True, f"{elapsed(began)} after the webhook")
        self.checks.equal("accept repeats the answer to the byte", accept.body["session"], pre_accept.body["session"])
        await self.agent.wait_for_count("accepted", 1)
        self.checks.check("the agent got start and accepted", self.agent.count("start") == 1)

        await self._check_echo(phone, "the caller hears its own speech from the agent", self.speech)
        gap = phone.first_heard_at - accept.at
        self.checks.check("nothing is sent before accept's reply", gap > 0.1, f"{gap * 1000:.0f} ms after the request")
        await self._check_flow(phone)

        self.checks.equal("the terminate webhook gets 200", await self.meta.terminate(call_id), 200)
        await self.agent.wait_for_count("stop", 1)
        self.checks.check("the agent got stop", True)
        await phone.wait_for_state("closed")
        self.checks.check("the phone is told goodbye", True)
        await self._wait_for_metric("patchcord_calls_active 0")
        metrics = await self.meta.get("/metrics")
        ended = [line for line in metrics.splitlines() if 'reason="caller_hung_up"' in line]
        self.checks.check("the service counts one call that the caller ended", len(ended) == 1 and ended[0].endswith(" 1"))
        self.checks.equal("Graph was asked for nothing else", self.meta.actions(call_id), ["pre_accept", "accept"])

    async def _two_calls_at_once_in_both_dtls_roles(self) -> None:
        phones = {setup: self._phone() for setup in ("active", "passive")}
        call_ids = {setup: new_call_id() for setup in phones}
        for setup, phone in phones.items():
            await self.meta.connect(call_ids[setup], await phone.offer(setup))
        for setup, phone in phones.items():
            answer = (await self.meta.wait_for(call_ids[setup], "pre_accept")).body["session"]["sdp"]
            wanted = {"active": "passive", "passive": "active"}[setup]
            self.checks.check(f"an offer of DTLS {setup} is answered {wanted}", f"a=setup:{wanted}\r\n" in answer)
            await phone.take_answer(answer)
        for setup, phone in phones.items():
            await phone.wait_for_state("connected")
            await self.meta.wait_for(call_ids[setup], "accept")
        await self.agent.wait_for_count("accepted", 3)
        # Different words for each, so that one caller's echo in the other's ear would show.
        words = {"active": self.speech[:2 * RATE], "passive": self.speech[3 * RATE:5 * RATE]}
        names = {setup: f"two callers at once: DTLS {setup} hears its own" for setup in phones}
        await asyncio.gather(*(self._check_echo(phones[setup], names[setup], words[setup]) for setup in phones))
        for setup in phones:
            await self.meta.terminate(call_ids[setup])
        await self.agent.wait_for_count("stop", 3)
        await self._wait_for_metric("patchcord_calls_active 0")
        self.checks.check("both end", True)

    async def _stop_during_a_call(self) -> None:
        phone = self._phone()
        call_id = new_call_id()
        await self.meta.connect(call_id, await phone.offer())
        await phone.take_answer((await self.meta.wait_for(call_id, "pre_accept")).body["session"]["sdp"])
        await self.meta.wait_for(call_id, "accept")
        await phone.listen_until(RATE // 2, 5)
        began = time.monotonic()
        code = await self.service.terminate(10)
        self.checks.check("SIGTERM during a call: exit code 0", code == 0, f"code {code} after {elapsed(began)}")
        self.checks.equal("… the call is terminated at Graph", self.meta.actions(call_id)[2:], ["terminate"])
        await self.agent.wait_for_count("stop", 4)
        await phone.wait_for_state("closed")
        self.checks.check("… agent and phone are told", True)
        wrong = [line for line in self.service.lines if '"level":"ERROR"' in line or "panicked" in line]
        self.checks.check("the service logged no error", not wrong, wrong[0] if wrong else "")

    def _check_answer(self, pre_accept) -> str:
        path = f"/v26.0/{PHONE_NUMBER_ID}/calls"
        asked = (pre_accept.path, pre_accept.authorization, pre_accept.body["session"]["sdp_type"])
        self.checks.equal("pre_accept comes to the number's Graph", asked, (path, f"Bearer {ACCESS_TOKEN}", "answer"))
        answer = pre_accept.body["session"]["sdp"]
        lines = answer.split("\r\n")
        prints = [line.lower().split(" ")[0] for line in lines if line.startswith("a=fingerprint:")]
        self.checks.equal("the answer has one fingerprint, by sha-256", prints, ["a=fingerprint:sha-256"])
        self.checks.equal("the answer ends in CRLF and has no bare LF", (lines[-1], "\n" in "".join(lines)), ("", False))
        return answer

    async def _check_echo(self, phone: Phone, name: str, speech) -> None:
        """Says this and listens until it must have come back."""
        before = phone.heard_samples()
        phone.voice.speak(speech)
        await phone.listen_until(before + len(speech) + int(1.5 * RATE), len(speech) / RATE + 6)
        heard = phone.heard()
        sound.write_wav(heard, SCRATCH / f"heard-{name.split(': ')[-1].replace(' ', '-')}.wav")
        likeness = sound.compare(speech, heard)
        back_at = phone.last_heard_at - (len(heard) - likeness.starts_at) / RATE
        delay = back_at - phone.voice.spoke_at
        detail = f"correlation {likeness.correlation:.2f}, moved by {likeness.moved_ms:.0f} ms on the way"
        self.checks.check(name, likeness.correlation > LEAST_LIKENESS, detail)
        self.checks.check("… soon", delay < LONGEST_ECHO, f"after {delay * 1000:.0f} ms")

    async def _check_flow(self, phone: Phone) -> None:
        lasted = phone.last_heard_at - phone.first_heard_at
        amount = phone.heard_samples() / RATE
        right = abs(amount - lasted) < 0.05 * lasted + 0.1
        self.checks.check("sound comes without a gap", right, f"{amount:.2f} s of sound in {lasted:.2f} s")
        [received] = await phone.statistics("inbound-rtp")
        detail = f"{received.packetsReceived} packets, {received.packetsLost} lost"
        self.checks.check("no packet is missing", received.packetsLost == 0, detail)
        reports = await phone.statistics("remote-inbound-rtp")
        lost = [report.packetsLost for report in reports]
        self.checks.equal("the service's RTCP reports say that it lost nothing", lost, [0])

    async def _wait_for_metric(self, line: str) -> None:
        async def wait() -> None:
            while line not in (await self.meta.get("/metrics")).splitlines():
                await asyncio.sleep(0.05)

        await within(5, f"{line} on /metrics", wait())

    def _phone(self) -> Phone:
        phone = Phone()
        self._phones.append(phone)
        return phone

    async def clean_up(self) -> None:
        await stop_all(self._stops + [phone.close for phone in self._phones])


def elapsed(since: float) -> str:
    return f"{(time.monotonic() - since) * 1000:.0f} ms"


if __name__ == "__main__":
    run("aiortc as a WhatsApp caller", Scenario, ALL_WITHIN)
