"""A browser answers: the page of docs/browser.md in Chromium, as the agent of an aiortc caller."""

import asyncio
import hashlib
import json
import re
from pathlib import Path

import aiohttp
from aiohttp import web

import sound
from browser import program
from checks import Checks, run
from deadline import stop_all, within
from meta import Meta, new_call_id
from phone import Phone
from processes import ROOT, SCRATCH, SPEECH, Child, Service
from sound import RATE

DOCUMENT = ROOT / "docs" / "browser.md"
KEY = "patchcord_interop_0123456789"
LEAST_LIKENESS = 0.8
LEAST_LEVEL = 0.01
"""Of full scale: speech has ten times as much, silence nothing."""
ALL_WITHIN = 90

PRESSES_AND_LISTENS = """
<script type="module">
const report = (what, value) => fetch(`/${what}`, { method: "POST", body: JSON.stringify(value) });
const until = async (is) => { while (!is()) await new Promise((next) => setTimeout(next, 20)); };
window.onerror = (message) => report("failed", message);
window.onunhandledrejection = (event) => report("failed", String(event.reason));
await until(() => talk.onclick);
const began = performance.now();
talk.click();
await until(() => state.value === "connected");
report("connected", performance.now() - began);
const context = new AudioContext();
const meter = context.createAnalyser();
// Only what leads to the destination is computed.
context.createMediaStreamSource(caller.srcObject).connect(meter).connect(context.destination);
const samples = new Float32Array(meter.fftSize);
let loudest = 0;
const stop = performance.now() + 8000;
await until(() => {
  meter.getFloatTimeDomainData(samples);
  loudest = Math.max(loudest, Math.hypot(...samples) / Math.sqrt(samples.length));
  return performance.now() > stop;
});
report("heard", loudest);
</script>
"""


class Scenario:
    """One call, which a page takes while it rings."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.meta = Meta()
        self.service = Service(program)
        self.browser = Child("chromium")
        self._stops: list = []
        self._from_page: dict[str, asyncio.Future] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._from_page = {name: loop.create_future() for name in ("connected", "heard")}
        # aiortc binds its parts to the running loop.
        self.phone = Phone()
        self._stops.append(self.phone.close)
        await self.meta.start()
        self._stops.append(self.meta.stop)
        page = await self._serve_page()
        await self._start_service()
        call_id = new_call_id()
        await self.meta.connect(call_id, await self.phone.offer())
        await self.phone.take_answer((await self.meta.wait_for(call_id, "pre_accept")).body["session"]["sdp"])
        await self.phone.wait_for_state("connected")
        self.checks.equal("the call rings until a page takes it", self.meta.actions(call_id), ["pre_accept"])

        await self._open_browser(page)
        milliseconds = await self._wait("connected", 30)
        self.checks.check("the page connects", True, f"{milliseconds:.0f} ms after the click, microphone and all")
        await self.meta.wait_for(call_id, "accept")
        self.checks.check("the call is accepted", True)
        speech = sound.read_wav(SPEECH)
        self.phone.voice.speak(speech)
        level = await self._wait("heard", 30)
        self.checks.check("the page hears the caller", level > LEAST_LEVEL, f"{level:.3f} of full scale")
        await self.phone.listen_until(2 * len(speech) + RATE, 20)
        heard = self.phone.heard()
        sound.write_wav(heard, SCRATCH / "heard-from-page.wav")
        likeness = sound.compare(speech, heard)
        detail = f"correlation {likeness.correlation:.2f}, moved by {likeness.moved_ms:.0f} ms on the way"
        self.checks.check("the caller hears the page's microphone", likeness.correlation > LEAST_LIKENESS, detail)
        await self.browser.stop()
        await asyncio.sleep(2)
        self.checks.equal("the call survives a page that is killed", self.meta.actions(call_id), ["pre_accept", "accept"])
        await self.meta.wait_for(call_id, "terminate", 40)
        self.checks.check("… for as long as its place is kept", True)

    async def _start_service(self) -> None:
        self._stops.append(self.service.stop)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        sections = f'[api]\nkeys = [{{ id = "interop", sha256 = "{digest}", scopes = ["calls:write"] }}]\n'
        route = 'answer = "on_command"'
        self.service_url = await self.service.run(self.meta.graph_url, "prompt:hold", route, sections)
        self.meta.webhook_url = f"{self.service_url}/webhooks/whatsapp"

    async def _serve_page(self) -> str:
        application = web.Application()
        application.router.add_get("/", self._page)
        application.router.add_get("/my-app/next-call", self._next_call)
        # The page talks to its own origin, as behind a reverse proxy.
        application.router.add_route("*", "/v1/{rest:.*}", self._proxy)
        application.router.add_post("/{what}", self._take_report)
        runner = web.AppRunner(application)
        await runner.setup()
        self._stops.append(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.page_url = f"http://localhost:{runner.addresses[0][1]}"
        return self.page_url

    async def _page(self, _: web.Request) -> web.Response:
        page = re.search(r"^```html\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)[1]
        return web.Response(text=page + PRESSES_AND_LISTENS, content_type="text/html")

    async def _next_call(self, _: web.Request) -> web.Response:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            async with client.get(f"{self.service_url}/v1/calls?state=live") as response:
                [call] = (await response.json())["calls"]
            url = f"{self.service_url}/v1/calls/{call['id']}/webrtc_tokens"
            async with client.post(url, json={"role": "agent", "origin": self.page_url}) as response:
                self.checks.equal("a token is made", response.status, 201)
                token = (await response.json())["token"]
        return web.json_response({"origin": self.page_url, "call": call["id"], "token": token})

    async def _proxy(self, request: web.Request) -> web.Response:
        kept = ("Authorization", "Content-Type", "If-Match", "Origin")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with aiohttp.ClientSession() as client:
            url, body = self.service_url + request.path, await request.read()
            if body:
                (SCRATCH / "chromium-agent-offer.sdp").write_bytes(body)
            async with client.request(request.method, url, headers=headers, data=body) as response:
                kept = ("Content-Type", "Location", "ETag")
                headers = {name: response.headers[name] for name in kept if name in response.headers}
                return web.Response(status=response.status, body=await response.read(), headers=headers)

    async def _take_report(self, request: web.Request) -> web.Response:
        what, value = request.match_info["what"], json.loads(await request.read())
        if what == "failed":
            for future in self._from_page.values():
                if not future.done():
                    future.set_exception(RuntimeError(f"the page failed: {value}"))
        else:
            self._from_page[what].set_result(value)
        return web.Response(text="")

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
            f"--user-data-dir={SCRATCH / 'chromium-agent'}",
            "--remote-debugging-port=0",
            url,
        )

    async def _wait(self, what: str, seconds: float):
        return await within(seconds, f"{what} from the page", self._from_page[what])

    async def clean_up(self) -> None:
        await stop_all(self._stops)


if __name__ == "__main__":
    run("Chromium as an agent", Scenario, ALL_WITHIN)
