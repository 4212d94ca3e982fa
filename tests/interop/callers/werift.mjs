// A phone on werift, a WebRTC stack in TypeScript. Its packets are ours, one by one: `werift.mjs ADDRESS SETUP`.

import OpusScript from "opusscript";
import { MediaStreamTrack, RTCPeerConnection, RTCRtpCodecParameters, RtpHeader, RtpPacket } from "werift";

import { FRAME, RATE, ear, everyFrame, obey, tell, voice } from "./line.mjs";

const [address, setup] = process.argv.slice(2);
const PAYLOAD_TYPE = 111;
const opus = new RTCRtpCodecParameters({
  mimeType: "audio/opus",
  clockRate: RATE,
  channels: 2,
  payloadType: PAYLOAD_TYPE,
});
const connection = new RTCPeerConnection({
  codecs: { audio: [opus] },
  iceServers: [],
  iceUseIpv6: false,
  iceAdditionalHostAddresses: [address],
});
const encoder = new OpusScript(RATE, 1, OpusScript.Application.VOIP);
const decoder = new OpusScript(RATE, 1);
const track = new MediaStreamTrack({ kind: "audio" });
const transceiver = connection.addTransceiver(track, { direction: "sendrecv" });

let last;
transceiver.onTrack.subscribe((heard) =>
  heard.onReceiveRtp.subscribe(({ header, payload }) => {
    const next = last === undefined || (header.sequenceNumber === ((last.sequenceNumber + 1) & 0xffff)
      && header.timestamp === (last.timestamp + FRAME) >>> 0 && header.ssrc === last.ssrc);
    if (!next) tell({ objection: `packet ${header.sequenceNumber} does not follow ${last.sequenceNumber}` });
    if (header.payloadType !== PAYLOAD_TYPE) tell({ objection: `payload type ${header.payloadType}` });
    last = header;
    const bytes = decoder.decode(payload);
    ear.hear(new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)));
  }),
);
connection.connectionStateChange.subscribe((state) => tell({ state }));
await connection.setLocalDescription(await connection.createOffer());
tell({ offer: connection.localDescription.sdp.replace("a=setup:actpass", `a=setup:${setup}`) });

await obey({
  async takeAnswer(sdp) {
    await connection.setRemoteDescription({ type: "answer", sdp });
    // Both counters wrap within the call.
    everyFrame(20, (count) => {
      const header = new RtpHeader({
        payloadType: PAYLOAD_TYPE,
        sequenceNumber: (65_500 + count) & 0xffff,
        timestamp: (2 ** 32 - 50 * FRAME + count * FRAME) >>> 0,
        ssrc: 1,
        marker: count === 0,
      });
      const packet = encoder.encode(Buffer.from(voice.next(FRAME).buffer), FRAME);
      track.writeRtp(new RtpPacket(header, packet));
    });
  },
});
