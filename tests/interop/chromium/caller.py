"""A browser calls: Chromium, headless, its microphone a recording, through the same webhook as aiortc."""

import asyncio
import json
from pathlib import Path

import numpy
from aiohttp import web

import sound
from browser import program
from checks import Checks, run
from deadline import stop_all, within
from meta import Meta, new_call_id
from processes import SCRATCH, SPEECH, Agent, Child, Service

PAGE = Path(__file__).parent / "page.html"
SECONDS = 12
"""Of listening: the recording of 5.3 s is played over and over, so one whole time is in it."""
LEAST_LIKENESS = 0.8
ALL_WITHIN = 60


class Scenario:
    """One call of one browser."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.meta = Meta()
        self.agent = Agent(readme)
        self.service = Service(program)
        self.browser = Child("chromium")
        self.call_id = new_call_id()
        self._stops: list = []
        self._from_page: dict[str, asyncio.Future] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._from_page = {name: loop.create_future() for name in ("connected", "statistics", "heard")}
        await self.meta.start()
        self._stops.append(self.meta.stop)
        self._stops.append(self.agent.stop)
        await self.agent.run()
        self._stops.append(self.service.stop)
        self.meta.webhook_url = await self.service.run(self.meta.graph_url, self.agent.url) + "/webhooks/whatsapp"
        await self._open_browser(await self._serve_page())

        milliseconds = await self._wait("connected", 20)
        self.checks.check("ICE and DTLS connect", True, f"{milliseconds:.0f} ms after the answer")
        await self.meta.wait_for(self.call_id, "accept")
        await self.agent.wait_for_count("accepted", 1)
        self.checks.check("the call is accepted, and the agent knows", True)
        statistics = await self._wait("statistics", SECONDS + 15)
        heard = await self._wait("heard", 5)
        self._check_sound(heard)
        self._check_statistics(statistics)
        await self.meta.terminate(self.call_id)
        await self.agent.wait_for_count("stop", 1)
        self.checks.check("the agent got stop", True)
        actions = self.meta.actions(self.call_id)
        self.checks.equal("Graph was asked for nothing else", actions, ["pre_accept", "accept"])

    def _check_sound(self, heard: numpy.ndarray) -> None:
        sound.write_wav(heard, SCRATCH / "heard-chromium.wav")
        likeness = sound.compare(sound.read_wav(SPEECH), heard)
        detail = f"correlation {likeness.correlation:.2f}, moved by {likeness.moved_ms:.0f} ms on the way"
        self.checks.check("the browser hears its own speech", likeness.correlation > LEAST_LIKENESS, detail)

    def _check_statistics(self, statistics: list[dict]) -> None:
        [received] = [entry for entry in statistics if entry["type"] == "inbound-rtp"]
        detail = f"{received['packetsReceived']} packets, {received['packetsLost']} lost"
        enough = received["packetsReceived"] > 50 * (SECONDS - 1) and received["packetsLost"] == 0
        self.checks.check("50 packets a second, none missing", enough, detail)
        concealed = received["concealedSamples"] / received["totalSamplesReceived"]
        self.checks.check("next to nothing is concealed", concealed < 0.05, f"{concealed:.1%}")
        reports = [entry for entry in statistics if entry["type"] == "remote-inbound-rtp"]
        lost = [report["packetsLost"] for report in reports]
        self.checks.equal("the service's RTCP reports say that it lost nothing", lost, [0])
        [transport] = [entry for entry in statistics if entry["type"] == "transport"]
        print(f"      DTLS {transport['dtlsRole']}, {transport['dtlsCipher']}, {transport['srtpCipher']}")

    async def _serve_page(self) -> str:
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_get("/", lambda _: asyncio.sleep(0, web.FileResponse(PAGE)))
        application.router.add_post("/offer", self._take_offer)
        application.router.add_post("/{what}", self._take_report)
        runner = web.AppRunner(application)
        await runner.setup()
        self._stops.append(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://localhost:{runner.addresses[0][1]}/?seconds={SECONDS}"

    async def _open_browser(self, url: str) -> None:
        self._stops.append(self.browser.stop)
        await self.browser.start(
            program(),
            "--headless",
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={SPEECH}",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={SCRATCH / 'chromium'}",
            "--remote-debugging-port=0",
            url,
        )

    async def _take_offer(self, request: web.Request) -> web.Response:
        offer = await request.text()
        (SCRATCH / "chromium-offer.sdp").write_text(offer)
        status = await self.meta.connect(self.call_id, offer)
        self.checks.equal("the browser's offer gets 200", status, 200)
        answer = (await self.meta.wait_for(self.call_id, "pre_accept")).body["session"]["sdp"]
        return web.Response(text=answer)

    async def _take_report(self, request: web.Request) -> web.Response:
        what, body = request.match_info["what"], await request.read()
        if what == "heard":
            self._from_page["heard"].set_result(numpy.frombuffer(body, dtype="<i2"))
        elif what == "statistics":
            self._from_page["statistics"].set_result(json.loads(body))
        elif what == "state":
            state = json.loads(body)
            if state["state"] == "connected":
                self._from_page["connected"].set_result(state["ms"])
        elif what == "failed":
            for future in self._from_page.values():
                if not future.done():
                    future.set_exception(RuntimeError(f"the page failed: {body.decode()}"))
        return web.Response(text="")

    async def _wait(self, what: str, seconds: float):
        return await within(seconds, f"{what} from the browser", self._from_page[what])

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("Chromium as a WhatsApp caller", Scenario, ALL_WITHIN)
