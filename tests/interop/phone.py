"""A phone on aiortc, or a bot: speaks when told, writes down what it hears. Loopback only."""

import asyncio
import time
from fractions import Fraction

import aioice.ice
import numpy
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from deadline import within
from sound import RATE

# aioice leaves loopback out, and there must be nothing else here.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"] if use_ipv4 else []

FRAME = RATE // 50


class Voice(MediaStreamTrack):
    """Silence, and speech once there is some; a frame every 20 ms."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._waiting = numpy.zeros(0, dtype=numpy.int16)
        self._frames = 0
        self._began = 0.0
        self.spoke_at: float | None = None

    def speak(self, speech: numpy.ndarray) -> None:
        self._waiting = speech
        self.spoke_at = None

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        self._began = self._began or time.monotonic()
        await asyncio.sleep(max(0.0, self._began + self._frames * FRAME / RATE - time.monotonic()))
        if len(self._waiting) and self.spoke_at is None:
            self.spoke_at = time.monotonic()
        samples, self._waiting = self._waiting[:FRAME], self._waiting[FRAME:]
        samples = numpy.pad(samples, (0, FRAME - len(samples)))
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), self._frames * FRAME
        self._frames += 1
        return frame


class Phone:
    """One call's phone."""

    def __init__(self) -> None:
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("track", self._listen)
        self._connection.on("connectionstatechange", self._note_state)
        self._changed = asyncio.Condition()
        self._listener: asyncio.Task | None = None
        self._states: list[str] = []
        self._heard: list[numpy.ndarray] = []
        self.first_heard_at: float | None = None
        self.last_heard_at = 0.0
        self.voice = Voice()
        self._connection.addTrack(self.voice)

    async def offer(self, setup: str = "actpass") -> str:
        """A full offer, with all its addresses. `setup` is the DTLS role that it asks for."""
        await self._connection.setLocalDescription(await self._connection.createOffer())
        return self._connection.localDescription.sdp.replace("a=setup:actpass", f"a=setup:{setup}")

    async def take_answer(self, answer: str) -> None:
        await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def answer(self, offer: str) -> str:
        """A full answer to an offer, as a bot's server gives it."""
        await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        return self._connection.localDescription.sdp

    async def wait_for_state(self, state: str, seconds: float = 10) -> None:
        """`connected`: ICE and DTLS are through. `closed`: the other side has said goodbye."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: state in self._states)

        await within(seconds, f"the phone to be {state} (was: {self._states})", wait())

    async def listen_until(self, samples: int, seconds: float) -> None:
        """Waits until so much has been heard in all."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: self.heard_samples() >= samples)

        what = f"{samples / RATE:.1f} s of sound at the phone (came: {self.heard_samples() / RATE:.1f} s)"
        await within(seconds, what, wait())

    def heard(self) -> numpy.ndarray:
        return numpy.concatenate(self._heard) if self._heard else numpy.zeros(0, dtype=numpy.int16)

    def heard_samples(self) -> int:
        return sum(len(samples) for samples in self._heard)

    async def statistics(self, kind: str) -> list:
        """Statistics as WebRTC names them: `inbound-rtp`, `remote-inbound-rtp`, …"""
        return [entry for entry in (await self._connection.getStats()).values() if entry.type == kind]

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        await self._connection.close()

    async def _note_state(self) -> None:
        async with self._changed:
            self._states.append(self._connection.connectionState)
            self._changed.notify_all()

    def _listen(self, track: MediaStreamTrack) -> None:
        self._listener = asyncio.create_task(self._hear(track))

    async def _hear(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            # Packed stereo: the left channel, for a telephone's sound is the same in both.
            samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
            async with self._changed:
                self.last_heard_at = time.monotonic()
                self.first_heard_at = self.first_heard_at or self.last_heard_at
                self._heard.append(samples.copy())
                self._changed.notify_all()
