// What every phone in Node shares: its conversation with the scenario, one JSON object a line, and WAV files.

import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

/** Samples a second everywhere. */
export const RATE = 48_000;
/** Samples in 20 ms. */
export const FRAME = RATE / 50;
const HEADER = 44;

export function tell(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

/** The phone of a stack: what to do with each order of the scenario. */
export async function obey(phone) {
  for await (const line of createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    if (order.answer) await phone.takeAnswer(order.answer);
    if (order.speak) voice.speak(readWav(order.speak));
    if (order.write) tell({ written: writeWav(order.write, ear.samples()) });
  }
  process.exit(0);
}

/** Silence, and speech once there is some. */
export const voice = {
  waiting: new Int16Array(0),
  speak(samples) {
    this.waiting = samples;
  },
  next(length) {
    const frame = new Int16Array(length);
    frame.set(this.waiting.subarray(0, length));
    this.waiting = this.waiting.subarray(length);
    return frame;
  },
};

/** What came, and a word to the scenario for every half second of it. */
export const ear = {
  frames: [],
  heard: 0,
  told: 0,
  hear(frame) {
    this.frames.push(frame);
    this.heard += frame.length;
    if (this.heard - this.told >= RATE / 2) tell({ heard: (this.told = this.heard) });
  },
  samples() {
    const all = new Int16Array(this.heard);
    let at = 0;
    for (const frame of this.frames) {
      all.set(frame, at);
      at += frame.length;
    }
    return all;
  },
};

/** Calls `send` for every `milliseconds` that have passed, however late the timer is. */
export function everyFrame(milliseconds, send) {
  const began = performance.now();
  let sent = 0;
  setInterval(() => {
    for (; began + sent * milliseconds <= performance.now(); sent++) send(sent);
  }, milliseconds / 2);
}

/** Mono, 16 bit, at RATE. */
function readWav(path) {
  const bytes = readFileSync(path);
  return new Int16Array(bytes.buffer.slice(bytes.byteOffset + HEADER, bytes.byteOffset + bytes.length));
}

function writeWav(path, samples) {
  const header = Buffer.alloc(HEADER);
  header.write("RIFF", 0);
  header.writeUInt32LE(HEADER - 8 + samples.byteLength, 4);
  header.write("WAVEfmt ", 8);
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(RATE, 24);
  header.writeUInt32LE(RATE * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write("data", 36);
  header.writeUInt32LE(samples.byteLength, 40);
  writeFileSync(path, Buffer.concat([header, Buffer.from(samples.buffer)]));
  return path;
}
