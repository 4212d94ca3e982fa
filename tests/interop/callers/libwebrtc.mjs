// A phone on Google's libwebrtc, in Node.

import wrtc from "@roamhq/wrtc";

import { RATE, ear, everyFrame, obey, tell, voice } from "./line.mjs";

const { RTCAudioSink, RTCAudioSource } = wrtc.nonstandard;
const connection = new wrtc.RTCPeerConnection();
const source = new RTCAudioSource();
connection.addTrack(source.createTrack());
connection.ontrack = ({ track }) => {
  // Every 10 ms, from the jitter buffer.
  new RTCAudioSink(track).ondata = ({ samples, channelCount }) =>
    ear.hear(samples.filter((_, index) => index % channelCount === 0));
};
connection.onconnectionstatechange = () => tell({ state: connection.connectionState });
connection.onicegatheringstatechange = () => {
  if (connection.iceGatheringState === "complete") tell({ offer: connection.localDescription.sdp });
};
await connection.setLocalDescription(await connection.createOffer());

await obey({
  async takeAnswer(sdp) {
    await connection.setRemoteDescription({ type: "answer", sdp });
    everyFrame(10, () => {
      const samples = voice.next(RATE / 100);
      const format = { sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: samples.length };
      source.onData({ samples, ...format });
    });
  },
});
