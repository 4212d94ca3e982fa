"""A headless Chromium, driven over its DevTools protocol as a person would: clicks, keys and looks."""

import base64
import json
import shutil
from pathlib import Path

from processes import SCRATCH, Child
from remote import Remote, RemotePage

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).parent.parent.parent.parent / "target" / "npm" / "node_modules" / "axe-core" / "axe.min.js"

VIOLATION = """new Promise((done) => {
  document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective), { once: true });
  setTimeout(() => done("nothing was blocked"), 20_000);
  %s
})"""
"""The directive of the policy that stops what the page does in this place."""


def program() -> str:
    """The Chromium of this machine."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise RuntimeError(f"no Chromium: install one of {', '.join(PROGRAMS)}")
    return found


class Browser(Child):
    """The program; each page of it is a tab."""

    def __init__(self, name: str = "chromium") -> None:
        super().__init__(name)
        self._remote = Remote(self._note)
        self._pages: dict[str, Page] = {}

    async def run(self, microphone: Path | None) -> None:
        """The microphone plays this WAV file over and over; None is somebody who refuses it to every page."""
        ui = "--use-fake-ui-for-media-stream"
        sound = [f"--use-file-for-fake-audio-capture={microphone}", ui] if microphone else [f"{ui}=deny"]
        await self.start(
            program(),
            "--headless",
            "--no-sandbox",
            "--use-fake-device-for-media-stream",
            *sound,
            f"--user-data-dir={SCRATCH / self.name}-profile",
            "--remote-debugging-port=0",
            "about:blank",
        )
        line = await self.wait_for_line("DevTools of Chromium", lambda line: "DevTools listening on" in line, 30)
        await self._remote.connect(line.split()[-1])

    async def stop(self) -> None:
        await self._remote.close()
        await super().stop()

    async def ask(self, method: str, session: str | None = None, **parameters) -> dict:
        """One command of the protocol and its result."""
        envelope = {} if session is None else {"sessionId": session}
        return await self._remote.ask(method, parameters, **envelope)

    async def open(self, url: str) -> "Page":
        """A new tab."""
        target = (await self.ask("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.ask(f"{domain}.enable")
        await page.ask("Page.navigate", url=url)
        loaded = f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'"
        await page.wait_for(loaded, f"{url} to load")
        return page

    def _note(self, event: dict) -> None:
        if page := self._pages.get(event.get("sessionId")):
            page.note(event["method"], event["params"])


class Page(RemotePage):
    """One tab, and what it asked for and complained about."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser, self._target, self._session = browser, target, session
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def ask(self, method: str, **parameters) -> dict:
        return await self._browser.ask(method, self._session, **parameters)

    def note(self, method: str, event: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.complaints.append(event["entry"]["text"])

    async def evaluate(self, expression: str):
        """The value of an expression, awaited if it is a promise."""
        result = await self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    async def click(self, selector: str) -> None:
        """A press of the mouse in the middle of an element."""
        await self._to_middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask("Input.dispatchMouseEvent", type=kind, x=self._x, y=self._y, button="left", clickCount=1)

    async def _to_middle(self, selector: str) -> None:
        self._x, self._y = await self.evaluate(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{ block: "center", behavior: "instant" }});
              const box = element.getBoundingClientRect();
              return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        await self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=self._x, y=self._y)

    async def key(self, key: str, code: str = "") -> None:
        """A key of the keyboard."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, **text)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)

    async def set(self, selector: str, value: str) -> None:
        """Gives a field or a slider a value, as if it was entered."""
        await self.evaluate(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.value = {json.dumps(value)};
              element.dispatchEvent(new Event("input", {{ bubbles: true }}));
              element.dispatchEvent(new Event("change", {{ bubbles: true }}));
            }})()"""
        )

    async def look(self, scheme: str, width: int, height: int) -> None:
        """Light or dark, and the size of the window."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, file: Path) -> None:
        """The whole page, as long as it is."""
        await self.evaluate("window.scrollTo(0, 0)")
        shot = await self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    async def barriers(self) -> list[str]:
        """What axe-core finds that keeps people out, a line each."""
        if not await self.evaluate("Boolean(window.axe)"):
            await self.evaluate(AXE.read_text() + "\n0")
        found = await self.evaluate(
            """axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })
              .then(({ violations }) => violations.map(({ id, nodes }) =>
                `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).join("; ")}`))"""
        )
        return found

    async def close(self) -> None:
        await self._browser.ask("Target.closeTarget", targetId=self._target)
