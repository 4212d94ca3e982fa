"use strict";
// Runs in each page before its own scripts: keeps hold of its WebRTC connections, and says whose tones it plays.

// A tone this much above what is around it is a voice.
const VOICE_DB = -55;
// Voices are steady tones here, which noise suppression would take for noise.
const PLAIN = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const connections = [];
let listening = null;

window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...options) {
        super(...options);
        connections.push(this);
    }
};

if (navigator.mediaDevices) {
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = () => open({ audio: PLAIN });
}

// The names in TONES that can be heard in the newest live connection, sorted.
function voicesHeard() {
    const connection = connections.findLast(({ connectionState }) => connectionState === "connected");
    if (!connection) return [];
    if (listening?.connection !== connection) listening = { connection, analyser: analyserOf(connection) };
    const { analyser } = listening;
    const levels = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(levels);
    const level = (hz) => levels[Math.round((hz * analyser.fftSize) / analyser.context.sampleRate)];
    return Object.keys(TONES)
        .filter((name) => level(TONES[name]) > VOICE_DB)
        .sort();
}

function analyserOf(connection) {
    const context = new AudioContext({ sampleRate: 48000 });
    const analyser = new AnalyserNode(context, { fftSize: 16384, smoothingTimeConstant: 0 });
    const stream = new MediaStream(connection.getReceivers().map(({ track }) => track));
    // Chromium gives a remote stream to Web Audio only while an element plays it too.
    const element = Object.assign(new Audio(), { srcObject: stream, muted: true });
    element.play();
    context.createMediaStreamSource(stream).connect(analyser);
    return analyser;
}

// From the click on "Answer" until packets go out and come in.
async function answerAndMeasure() {
    const before = connections.length;
    const began = performance.now();
    document.querySelector(".answer").click();
    for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        const connection = connections.slice(before).at(-1);
        const counts = connection ? [...(await connection.getStats()).values()] : [];
        const flows = (type, count) => counts.some((entry) => entry.type === type && entry[count] > 0);
        if (flows("inbound-rtp", "packetsReceived") && flows("outbound-rtp", "packetsSent"))
            return performance.now() - began;
        if (performance.now() - began > 30_000) throw new Error("no sound both ways in 30 s");
    }
}

// What a page sees when its device changes networks: the connection is broken until ICE has restarted.
function changeNetwork() {
    const connection = connections.at(-1);
    // An event that a script dispatches reaches no handler of this kind in Firefox.
    const change = () => connection.onconnectionstatechange(new Event("connectionstatechange"));
    Object.defineProperty(connection, "connectionState", { value: "disconnected", configurable: true });
    change();
    return new Promise((resolve) => {
        connection.addEventListener("signalingstatechange", () => {
            if (connection.signalingState !== "stable") return;
            delete connection.connectionState;
            change();
            resolve();
        });
    });
}

// Whose tones are in each channel of a recording.
async function voicesRecorded(path, key) {
    const response = await fetch(path, { headers: { Authorization: `Bearer ${key}` } });
    const context = new OfflineAudioContext(1, 1, 48000);
    const sound = await context.decodeAudioData(await response.arrayBuffer());
    const channels = Array.from({ length: sound.numberOfChannels }, (_, index) => sound.getChannelData(index));
    return channels.map((samples) => Object.keys(TONES).filter((name) => holdsTone(samples, TONES[name])).sort());
}

// Whether half a second of it has this tone (Goertzel's algorithm).
function holdsTone(samples, hz) {
    const length = 24_000;
    const factor = 2 * Math.cos((2 * Math.PI * hz) / 48_000);
    for (let from = 0; from + length <= samples.length; from += length) {
        let [before, last] = [0, 0];
        for (let at = from; at < from + length; at += 1) [before, last] = [last, samples[at] + factor * last - before];
        const power = before * before + last * last - factor * before * last;
        if (Math.sqrt(power) / length > 0.02) return true;
    }
    return false;
}

async function callerOffer() {
    const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
    const connection = new RTCPeerConnection();
    connection.addTrack(microphone.getAudioTracks()[0], microphone);
    await connection.setLocalDescription();
    await new Promise((resolve) => {
        const look = () => connection.iceGatheringState === "complete" && resolve();
        connection.onicegatheringstatechange = look;
        look();
    });
    return connection.localDescription.sdp;
}

function callerTakesAnswer(sdp) {
    return connections.at(-1).setRemoteDescription({ type: "answer", sdp });
}

function callerPresses(digits) {
    connections.at(-1).getSenders()[0].dtmf.insertDTMF(digits);
}

// Drivers run this inside a function.
Object.assign(window, {
    connections,
    voicesHeard,
    voicesRecorded,
    answerAndMeasure,
    changeNetwork,
    callerOffer,
    callerTakesAnswer,
    callerPresses,
});
