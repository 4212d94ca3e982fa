"""The service with a queue, a caller, two agents and a supervisor: what the console's checks and pictures both need."""

import hashlib
import shutil
from pathlib import Path

from deadline import stop_all
from meta import Meta
from people import Caller, Console, playwright_for
from processes import SCRATCH, Service

SCOPES = {
    "ana": ["agent:support"],
    "ben": ["agent:support"],
    "cleo": ["agent:support"],
    "lead": ["calls:read", "calls:write", "recordings:read"],
}
QUEUE = """
[queues.support]
ring_timeout = "5m"
"""


class Stage:
    """Everything that a call in the console needs."""

    def __init__(self, program: Path, folder: str) -> None:
        self.meta = Meta()
        self.service = Service(program)
        self.caller = Caller("caller")
        self.ana, self.ben, self.lead = (Console(name) for name in ("ana", "ben", "lead"))
        self._folder = SCRATCH / folder
        self._stops: list = []

    async def set(self, wrap_up: str = "10m", **context_options) -> None:
        """Starts it all, and signs everybody in. A wrap-up lasts until somebody ends it, or this long."""
        await self.set_without_consoles(wrap_up, **context_options)
        for console in self.consoles:
            await self.admit(console, **context_options)
            await console.sign_in(self.address)

    async def set_without_consoles(self, wrap_up: str = "10m", **context_options) -> None:
        """The service and the caller."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        await self.meta.start()
        self._stops.append(self.meta.stop)
        self._stops.append(self.service.stop)
        self.address = await self.service.run(
            self.meta.graph_url, "queue:support", "record = true", f'{QUEUE}wrap_up = "{wrap_up}"\n' + keys(), self._folder
        )
        self.meta.webhook_url = f"{self.address}/webhooks/whatsapp"
        self._playwright = await playwright_for(self._stops)
        self._stops.append(self.caller.stop)
        await self.caller.start(self._playwright, **context_options)

    async def admit(self, console: Console, **options) -> None:
        """Somebody with a browser and a key, who has not signed in yet."""
        console.key = key(console.name)
        self._stops.append(console.stop)
        await console.start(self._playwright, **options)

    @property
    def consoles(self) -> tuple[Console, ...]:
        return self.ana, self.ben, self.lead

    async def call(self) -> str:
        """The caller calls; Meta's id of the call."""
        return await self.caller.call(self.meta, self.address)

    async def strike(self) -> None:
        await stop_all(self._stops)


def key(name: str) -> str:
    return f"patchcord_{name}_0123456789abcdef"


def keys() -> str:
    lines = [
        f'{{ id = "{name}", sha256 = "{hashlib.sha256(key(name).encode()).hexdigest()}", scopes = {scopes} }},'
        for name, scopes in SCOPES.items()
    ]
    return "[api]\nkeys = [\n" + "\n".join(lines).replace("'", '"') + "\n]\n"
