// One call of the phone: the browser's WebRTC on one side, the simulator's events on the other.

import { answer, decline, events, hangUp, pickUp, place } from "./api.js";

/** Gathering goes on without candidates that take longer: the service learns the address from the checks. */
const GATHER_WITHIN_MS = 2000;
/** Length of a key press and of the pause after it. */
const KEY_MS = 160;
const KEY_GAP_MS = 70;

/**
 * A call from its offer to its end.
 *
 * Tells `on(kind, data)` the simulator's events and the phone's own steps: `phone {name, title, at_ms, detail}`,
 * `sound {stream}`, `lost {}`. Times count from the moment at which the simulator has the offer.
 */
export class PhoneCall {
  #connection = new RTCPeerConnection();
  #sender;
  #events;
  #id;
  #ended = false;
  #began = 0;
  #on;

  constructor(on) {
    this.#on = on;
  }

  /** Makes the offer and has it announced; returns when the simulator has it. */
  async start(stream, order) {
    const began = performance.now();
    const connection = this.#connection;
    connection.ontrack = ({ streams, track }) => this.#on("sound", { stream: streams[0] ?? new MediaStream([track]) });
    connection.onconnectionstatechange = () => this.#connectionChanged();
    this.#sender = connection.addTrack(stream.getAudioTracks()[0], stream);
    offerOnlyWhatWhatsAppOffers(connection.getTransceivers()[0]);
    await connection.setLocalDescription();
    await gathered(connection);
    const { sdp } = connection.localDescription;
    const offered = performance.now();
    const { call, seed } = await place({ ...order, sdp });
    // The simulator's clock began somewhere between the request and its reply.
    this.#began = (offered + performance.now()) / 2;
    this.#id = call;
    if (this.#ended) {
      await hangUp(call);
      return;
    }
    const took = Math.round(offered - began);
    this.step("offered", "offer made", { took_ms: took, seed, sdp }, 0);
    this.#follow();
  }

  #follow() {
    this.#events = events(this.#id, {
      onEvent: (kind, data) => this.#heard(kind, data),
      onClosed: () => this.#closed(),
    });
  }

  /** Answers the offer of a business that calls, while it rings: without a sound until the call is taken. */
  async ring({ call, sdp }) {
    this.#began = performance.now();
    this.#id = call;
    const connection = this.#connection;
    connection.ontrack = ({ streams, track }) => this.#on("sound", { stream: streams[0] ?? new MediaStream([track]) });
    connection.onconnectionstatechange = () => this.#connectionChanged();
    this.#follow();
    await connection.setRemoteDescription({ type: "offer", sdp });
    const [transceiver] = connection.getTransceivers();
    transceiver.direction = "sendrecv";
    this.#sender = transceiver.sender;
    await connection.setLocalDescription();
    await gathered(connection);
    const answered = connection.localDescription.sdp;
    this.step("answered", "answer made", { sdp: answered });
    if (!this.#ended) await answer(call, answered);
  }

  /** Takes a call that rings, with this sound. */
  async pickUp(stream) {
    await this.#sender.replaceTrack(stream.getAudioTracks()[0]);
    await pickUp(this.#id);
    this.step("picked_up", "call taken");
  }

  /** Declines a call that rings. */
  async decline() {
    await decline(this.#id);
  }

  /** Tells a step of the phone itself. */
  step(name, title, detail, at = Math.max(0, Math.round(performance.now() - this.#began))) {
    this.#on("phone", { name, title, at_ms: at, detail });
  }

  setMuted(muted) {
    if (this.#sender?.track) this.#sender.track.enabled = !muted;
    this.step(muted ? "muted" : "unmuted", muted ? "microphone muted" : "microphone on");
  }

  /** False if the service did not agree on keys. */
  press(key) {
    const dtmf = this.#sender?.dtmf;
    if (!dtmf?.canInsertDTMF) return false;
    dtmf.insertDTMF(dtmf.toneBuffer + key, KEY_MS, KEY_GAP_MS);
    this.step("key", `key ${key} pressed`);
    return true;
  }

  async hangUp() {
    if (this.#ended) return;
    if (this.#id === undefined) {
      this.#ended = true;
      this.#connection.close();
      this.#on("ended", { by: "caller" });
      return;
    }
    // The simulator's `ended` event does the rest.
    await hangUp(this.#id);
  }

  /** What the connection says of itself: `{lost, jitter_ms, round_trip_ms, received}`; null before it is up. */
  async quality() {
    const reports = [...(await this.#connection.getStats()).values()];
    const received = reports.find((report) => report.type === "inbound-rtp" && report.kind === "audio");
    const pair = reports.find((report) => report.type === "candidate-pair" && report.nominated);
    if (!received) return null;
    return {
      received: received.packetsReceived,
      lost: Math.max(0, received.packetsLost),
      jitter_ms: Math.round(received.jitter * 1000),
      round_trip_ms: pair?.currentRoundTripTime === undefined ? null : Math.round(pair.currentRoundTripTime * 1000),
    };
  }

  #heard(kind, data) {
    if (kind === "answer") void this.#answered(data);
    if (kind === "ended") this.#ended = true;
    this.#on(kind, data);
  }

  async #answered({ sdp }) {
    try {
      await this.#connection.setRemoteDescription({ type: "answer", sdp });
      this.step("answered", "answer applied", { sdp });
    } catch (error) {
      if (this.#ended) return;
      this.step("refused", "the browser refuses the answer", { error: String(error), sdp });
      await this.hangUp();
    }
  }

  #connectionChanged() {
    if (this.#ended) return;
    switch (this.#connection.connectionState) {
      case "connected":
        this.step("media_up", "media up: ICE and DTLS are done");
        break;
      case "disconnected":
        this.step("media_lost", "the service no longer answers connectivity checks");
        break;
      case "failed":
        this.step("media_failed", "the media connection failed");
        break;
    }
  }

  /**
   * The stream of events is over: after the last webhook, or because the simulator is gone. The media connection closes
   * only now, or the service would hear of the end from DTLS before it does from the webhook.
   */
  #closed() {
    this.#connection.close();
    if (this.#ended) return;
    this.#ended = true;
    this.#on("lost", {});
  }
}

/** Opus and telephone events at 8 kHz, as in WhatsApp's own offer. */
function offerOnlyWhatWhatsAppOffers(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities("audio").codecs.filter(
    ({ mimeType, clockRate }) =>
      mimeType.toLowerCase() === "audio/opus" ||
      (mimeType.toLowerCase() === "audio/telephone-event" && clockRate === 8000),
  );
  transceiver.setCodecPreferences?.(codecs);
}

function gathered(connection) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, GATHER_WITHIN_MS);
    const look = () => {
      if (connection.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    };
    connection.addEventListener("icegatheringstatechange", look);
    look();
  });
}
