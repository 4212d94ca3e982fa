"""The WebSocket by which a browser is driven: numbered commands, their replies, and events in between."""

import asyncio
import itertools
import json

import aiohttp

from deadline import within


class Remote:
    """Chromium's DevTools protocol and WebDriver BiDi alike: the two differ in the names of the commands alone."""

    def __init__(self, note) -> None:
        """`note` takes each event as it comes."""
        self._note = note
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future] = {}

    async def connect(self, url: str) -> None:
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(url, max_msg_size=0)
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, method: str, parameters: dict, **envelope) -> dict:
        """One command and its result. The envelope is what stands beside the method."""
        number = next(self._ids)
        self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters, **envelope})
        reply = await within(60, f"{method} in the browser", self._replies[number])
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply.get('message') or reply['error']['message']}")
        return reply["result"]

    async def close(self) -> None:
        if hasattr(self, "_listening"):
            await self._socket.close()
            await self._http.close()
            await self._listening

    async def _listen(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if event.get("id") is not None:
                reply = self._replies.pop(event["id"])
                # Nobody waits any more for one that comes too late.
                if not reply.done():
                    reply.set_result(event)
            else:
                self._note(event)
        for reply in self._replies.values():
            reply.cancel()


class RemotePage:
    """What can be asked of a page in any browser that evaluates expressions."""

    async def evaluate(self, expression: str):
        raise NotImplementedError

    async def wait_for(self, expression: str, what: str, seconds: float = 30) -> None:
        """Waits until an expression is true."""
        look = f"new Promise((done) => {{ const look = () => (({expression}) ? done(true) : setTimeout(look, 20)); look(); }})"
        await within(seconds, what, self.evaluate(look))

    async def text(self, selector: str) -> str:
        return await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
