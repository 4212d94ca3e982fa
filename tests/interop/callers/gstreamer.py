"""A phone on GStreamer's webrtcbin: libnice, OpenSSL and libsrtp. Runs in Debian's own Python, which has the bindings."""

import json
import sys
import threading
import wave

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

RATE = 48_000
FRAME = RATE // 50 * 2
"""Bytes of 20 ms."""
FRAME_TIME = 20 * Gst.MSECOND
PIPELINE = f"""
    webrtcbin name=webrtc bundle-policy=max-bundle
    appsrc name=voice is-live=true format=time
        caps=audio/x-raw,format=S16LE,rate={RATE},channels=1,layout=interleaved
    ! audioconvert ! audio/x-raw,channels=2 ! opusenc ! rtpopuspay pt=111
    ! application/x-rtp,media=audio,encoding-name=OPUS,payload=111 ! webrtc."""
EAR = f"""
    rtpopusdepay ! opusdec ! audioconvert ! audioresample ! audio/x-raw,format=S16LE,rate={RATE},channels=1
    ! appsink name=ear emit-signals=true sync=false"""


def tell(message: dict) -> None:
    print(json.dumps(message), flush=True)


class Phone:
    def __init__(self) -> None:
        self._waiting = b""
        self._spoken = 0
        self._heard = bytearray()
        self._told = 0
        self._pipeline = Gst.parse_launch(PIPELINE)
        self._voice = self._pipeline.get_by_name("voice")
        self._webrtc = self._pipeline.get_by_name("webrtc")
        self._webrtc.connect("on-negotiation-needed", self._offer)
        self._webrtc.connect("notify::ice-gathering-state", self._tell_offer)
        self._webrtc.connect("notify::connection-state", self._tell_state)
        self._webrtc.connect("pad-added", self._listen)

    def start(self) -> None:
        self._pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add(10, self._speak)

    def obey(self, order: dict) -> bool:
        if "answer" in order:
            _, sdp = GstSdp.SDPMessage.new_from_text(order["answer"])
            answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, sdp)
            self._webrtc.emit("set-remote-description", answer, Gst.Promise.new())
        if "speak" in order:
            with wave.open(order["speak"], "rb") as file:
                self._waiting = file.readframes(file.getnframes())
        if "write" in order:
            with wave.open(order["write"], "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(bytes(self._heard))
            tell({"written": order["write"]})
        return False

    def _speak(self) -> bool:
        """Sends every frame that is due, however late the timer is."""
        clock = self._pipeline.get_pipeline_clock()
        while self._spoken * FRAME_TIME <= clock.get_time() - self._pipeline.get_base_time():
            frame, self._waiting = self._waiting[:FRAME].ljust(FRAME, b"\0"), self._waiting[FRAME:]
            buffer = Gst.Buffer.new_wrapped(frame)
            buffer.pts, buffer.duration = self._spoken * FRAME_TIME, FRAME_TIME
            self._voice.emit("push-buffer", buffer)
            self._spoken += 1
        return True

    def _offer(self, webrtc) -> None:
        def set_it(promise, *_) -> None:
            reply = promise.get_reply()
            webrtc.emit("set-local-description", reply["offer"], Gst.Promise.new())

        webrtc.emit("create-offer", None, Gst.Promise.new_with_change_func(set_it, None, None))

    def _tell_offer(self, webrtc, _) -> None:
        if webrtc.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            tell({"offer": webrtc.get_property("local-description").sdp.as_text()})

    def _tell_state(self, webrtc, _) -> None:
        tell({"state": webrtc.get_property("connection-state").value_nick})

    def _listen(self, _, pad) -> None:
        if pad.direction != Gst.PadDirection.SRC:
            return
        ear = Gst.parse_bin_from_description(EAR, True)
        ear.get_by_name("ear").connect("new-sample", self._hear)
        self._pipeline.add(ear)
        ear.sync_state_with_parent()
        pad.link(ear.get_static_pad("sink"))

    def _hear(self, ear) -> Gst.FlowReturn:
        buffer = ear.emit("pull-sample").get_buffer()
        self._heard += buffer.extract_dup(0, buffer.get_size())
        samples = len(self._heard) // 2
        if samples - self._told >= RATE // 2:
            self._told = samples
            tell({"heard": samples})
        return Gst.FlowReturn.OK


def main() -> None:
    Gst.init(None)
    phone, loop = Phone(), GLib.MainLoop()
    phone.start()

    def read() -> None:
        for line in sys.stdin:
            GLib.idle_add(phone.obey, json.loads(line))
        loop.quit()

    threading.Thread(target=read, daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
