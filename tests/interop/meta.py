"""Meta as the service sees it: a Graph API that takes every action, and signed webhooks."""

import asyncio
import copy
import hashlib
import hmac
import json
import time
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from deadline import within

FIXTURES = Path(__file__).parent.parent / "fixtures" / "whatsapp"
APP_SECRET = "interop-app-secret"
VERIFY_TOKEN = "interop-verify-token"
ACCESS_TOKEN = "interop-access-token"
PHONE_NUMBER_ID = "200000000000002"
GRAPH_LATENCY = 0.15
"""Seconds that Graph takes for a reply, as the real one does. Sound that starts before the reply shows."""


@dataclass
class Request:
    """One action that the service asked for."""

    path: str
    authorization: str
    body: dict
    at: float

    @property
    def action(self) -> str:
        return self.body.get("action", "")


class Meta:
    """One business account with one number."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.webhook_url = ""
        self._came = asyncio.Condition()

    async def start(self) -> None:
        application = web.Application()
        application.router.add_post("/{version}/{number}/calls", self._act)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.graph_url = f"http://{host}:{port}"
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))

    async def stop(self) -> None:
        await self._client.close()
        await self._runner.cleanup()

    async def _act(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        authorization = request.headers.get("Authorization", "")
        async with self._came:
            self.requests.append(Request(request.path, authorization, body, time.monotonic()))
            self._came.notify_all()
        await asyncio.sleep(GRAPH_LATENCY)
        return web.json_response(fixture("graph-success-response.json"))

    def actions(self, call_id: str) -> list[str]:
        """What was asked for this call, in order."""
        return [request.action for request in self.requests if request.body.get("call_id") == call_id]

    async def wait_for(self, call_id: str, action: str, seconds: float = 10) -> Request:
        """Waits until the service asks for this action on this call."""

        def found() -> Request | None:
            wanted = (request for request in self.requests if request.body.get("call_id") == call_id)
            return next((request for request in wanted if request.action == action), None)

        async def wait() -> Request:
            async with self._came:
                return await self._came.wait_for(found)

        return await within(seconds, f"{action} at Graph (came: {self.actions(call_id)})", wait())

    async def subscribe(self, challenge: str) -> str:
        """Meta's question when the webhook's address is registered."""
        query = {"hub.mode": "subscribe", "hub.verify_token": VERIFY_TOKEN, "hub.challenge": challenge}
        async with self._client.get(self.webhook_url, params=query) as response:
            return await response.text()

    async def connect(self, call_id: str, offer: str, secret: str | None = APP_SECRET) -> int:
        """The webhook of a new call; its HTTP status."""
        body = fixture("webhook-connect-user-initiated-2025-10.json")
        call = body["entry"][0]["changes"][0]["value"]["calls"][0]
        call["id"] = call_id
        call["timestamp"] = str(int(time.time()))
        call["session"] = {"sdp": offer, "sdp_type": "offer"}
        return await self._post(body, secret)

    async def terminate(self, call_id: str) -> int:
        """The webhook of a call that ended; its HTTP status."""
        body = fixture("webhook-terminate-completed.json")
        call = body["entry"][0]["changes"][0]["value"]["calls"][0]
        now = int(time.time())
        call.update(id=call_id, timestamp=str(now), start_time=str(now - 9), end_time=str(now), duration=9)
        return await self._post(body, APP_SECRET)

    async def _post(self, body: dict, secret: str | None) -> int:
        raw = json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode()
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            digest = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
            headers["X-Hub-Signature-256"] = f"sha256={digest}"
        async with self._client.post(self.webhook_url, data=raw, headers=headers) as response:
            return response.status

    async def get(self, path: str) -> str:
        """A page of the service under test, such as `/metrics`."""
        async with self._client.get(self.webhook_url.removesuffix("/webhooks/whatsapp") + path) as response:
            return await response.text()


def new_call_id() -> str:
    """Shaped like Meta's."""
    new_call_id.count += 1
    return "wacid." + b64encode(f"interop-{time.time_ns()}-{new_call_id.count}".encode()).decode()


new_call_id.count = 0


def fixture(name: str) -> dict:
    """A body as it stands on Meta's pages or came from Meta."""
    return copy.deepcopy(json.loads((FIXTURES / name).read_text()))
