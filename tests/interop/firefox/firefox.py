"""A headless Firefox, driven over WebDriver BiDi, which it speaks itself: no geckodriver."""

import json
import shutil
import socket

from deadline import stop_all
from processes import SCRATCH, Child
from remote import Remote, RemotePage

PROGRAMS = ("firefox-esr", "firefox")
"""Debian's, and Mozilla's."""
CLICKED = """(() => {
  const element = document.querySelector(%s);
  if (!element?.offsetParent || element.disabled) return false;
  element.focus();
  element.click();
  return true;
})()"""


def program() -> str:
    """The Firefox of this machine."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise RuntimeError(f"no Firefox: install one of {', '.join(PROGRAMS)}")
    return found


def reachable_address() -> str:
    """Where this machine's Firefox reaches it. A page that may not use the microphone yet has the address of the default
    route alone (RFC 8828, mode 2), and from there no path leads to loopback."""
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            # Of TEST-NET-3. Nothing is sent.
            udp.connect(("203.0.113.1", 9))
        except OSError as error:
            raise RuntimeError(f"Firefox needs a default route, and this machine has none: {error}") from None
        return udp.getsockname()[0]


def preferences(microphone_hz: int) -> dict:
    """Of a Firefox whose microphone is a tone. Whether host candidates are mDNS names stays as it is by default."""
    return {
        "media.navigator.streams.fake": True,
        "media.navigator.audio.fake_frequency": microphone_hz,
        "media.navigator.permission.disabled": True,
        "media.peerconnection.ice.loopback": True,
        "media.autoplay.default": 0,
        "media.autoplay.blocking_policy": 0,
        # No request to Mozilla, and no tab with news of it.
        "app.normandy.enabled": False,
        "app.update.enabled": False,
        "browser.shell.checkDefaultBrowser": False,
        "datareporting.policy.dataSubmissionEnabled": False,
        "network.captive-portal-service.enabled": False,
        "network.connectivity-service.enabled": False,
        "services.settings.server": "data:,",
        "toolkit.telemetry.enabled": False,
    }


class Loudspeaker(Child):
    """A PulseAudio that plays into nothing. Without a device Firefox suspends Web Audio."""

    def __init__(self) -> None:
        super().__init__("pulseaudio")
        self._folder = SCRATCH / "pulseaudio"
        self.server = f"unix:{self._folder / 'socket'}"

    async def run(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        variables = [f"PULSE_{name}_PATH={self._folder}" for name in ("RUNTIME", "STATE")]
        modules = ["module-null-sink", f"module-native-protocol-unix auth-anonymous=1 socket={self._folder / 'socket'}"]
        await self.start(
            "env",
            *variables,
            "pulseaudio",
            "--daemonize=no",
            "--use-pid-file=no",
            "--exit-idle-time=-1",
            "--log-level=info",
            "-n",
            *(f"--load={module}" for module in modules),
        )
        await self.wait_for_line("PulseAudio", lambda line: "Daemon startup complete" in line, 30)


class Firefox(Child):
    """The program, with a new profile and a loudspeaker of its own."""

    def __init__(self, name: str = "firefox") -> None:
        super().__init__(name)
        self._loudspeaker = Loudspeaker()
        self._remote = Remote(self._note)
        self._pages: dict[str, Page] = {}

    async def run(self, microphone_hz: int) -> None:
        profile = SCRATCH / f"{self.name}-profile"
        shutil.rmtree(profile, ignore_errors=True)
        profile.mkdir()
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences(microphone_hz).items()]
        (profile / "user.js").write_text("".join(lines))
        await self._loudspeaker.run()
        await self.start(
            "env",
            f"PULSE_SERVER={self._loudspeaker.server}",
            program(),
            "--headless",
            "--no-remote",
            f"--profile={profile}",
            "--remote-debugging-port=0",
            "about:blank",
        )
        line = await self.wait_for_line("WebDriver BiDi of Firefox", lambda line: "BiDi listening on" in line, 60)
        await self._remote.connect(f"{line.split()[-1]}/session")
        session = await self.ask("session.new", capabilities={})
        self.version: str = session["capabilities"]["browserVersion"]
        await self.ask("session.subscribe", events=["network.beforeRequestSent", "log.entryAdded"])

    async def stop(self) -> None:
        # The last first: a Firefox that hangs answers no goodbye.
        await stop_all([self._remote.close, super().stop, self._loudspeaker.stop])

    async def ask(self, method: str, **parameters) -> dict:
        """One command of the protocol and its result."""
        return await self._remote.ask(method, parameters)

    async def open(self, url: str, before: str = "") -> "Page":
        """A new tab. The script `before` runs in it ahead of the page's own."""
        context = (await self.ask("browsingContext.create", type="tab"))["context"]
        page = self._pages[context] = Page(self, context)
        await self.ask("script.addPreloadScript", functionDeclaration=f"() => {{ {before}\n}}", contexts=[context])
        await self.ask("browsingContext.navigate", context=context, url=url, wait="complete")
        return page

    def _note(self, event: dict) -> None:
        """The source of a log entry, and a request itself, name their tab."""
        what = event["params"]
        context = what.get("context") or what.get("source", {}).get("context")
        if page := self._pages.get(context):
            page.note(event["method"], what)


class Page(RemotePage):
    """One tab, and what it asked for and complained about."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox, self._context = firefox, context
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def note(self, method: str, event: dict) -> None:
        if method == "network.beforeRequestSent":
            self.requests.append(event["request"]["url"])
        elif event["level"] == "error":
            self.complaints.append(event["text"])

    async def evaluate(self, expression: str):
        """The value of an expression, awaited if it is a promise. It comes as JSON, not as BiDi's typed values."""
        result = await self._firefox.ask(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))",
            target={"context": self._context},
            awaitPromise=True,
        )
        if result["type"] == "exception":
            raise RuntimeError(result["exceptionDetails"]["text"])
        return json.loads(result["result"]["value"])

    async def click(self, selector: str) -> None:
        """Clicks an element as soon as it is shown and enabled. By script: a mouse would miss one that moves meanwhile."""
        await self.wait_for(CLICKED % json.dumps(selector), f"{selector} to click")

    async def type(self, text: str) -> None:
        """Keys of the keyboard, one after the other."""
        presses = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": presses}
        await self._firefox.ask("input.performActions", context=self._context, actions=[keyboard])
