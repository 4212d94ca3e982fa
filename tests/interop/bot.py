"""Bots behind an HTTP endpoint that answers WebRTC offers, as Pipecat's SmallWebRTC and aiortc's example server do."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from deadline import within
from phone import Phone


@dataclass
class Offered:
    """An offer and the bot that answered it."""

    body: dict
    authorization: str
    bot: Phone


class Bots:
    """`POST /api/offer`: JSON `{sdp, type}` in, JSON `{sdp, type, pc_id}` out. Every offer gets a bot of its own."""

    def __init__(self) -> None:
        self.offers: list[Offered] = []
        self.url = ""
        self._came = asyncio.Condition()

    async def start(self) -> None:
        application = web.Application()
        application.router.add_post("/api/offer", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/api/offer"

    async def stop(self) -> None:
        await asyncio.gather(*(offered.bot.close() for offered in self.offers))
        await self._runner.cleanup()

    async def wait_for(self, number: int, seconds: float = 10) -> Offered:
        """The offer that came after so many others."""

        async def wait() -> Offered:
            async with self._came:
                await self._came.wait_for(lambda: len(self.offers) > number)
                return self.offers[number]

        return await within(seconds, f"offer {number} (came: {len(self.offers)})", wait())

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        bot = Phone()
        answer = await bot.answer(body["sdp"])
        async with self._came:
            self.offers.append(Offered(body, request.headers.get("Authorization", ""), bot))
            self._came.notify_all()
        return web.json_response({"sdp": answer, "type": "answer", "pc_id": f"SmallWebRTCConnection#{len(self.offers)}"})
