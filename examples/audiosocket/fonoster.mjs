// The same on @fonoster/streams, which knows neither keys nor other rates than 8 kHz: it greets with a tone, is an echo for
// eight seconds, and hangs up.
//
//     npm install && PORT=9092 node fonoster.mjs

import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tmpdir } from "node:os";
import { AudioSocket } from "@fonoster/streams";

const RATE = 8000;
const FRAMES = 400; // of 20 ms

const server = new AudioSocket();

server.onConnection(async ({ ref }, stream) => {
  console.log(`call ${ref}`);
  let frames = 0;
  let isGreeting = true;
  stream.onData((pcm) => {
    if (isGreeting) return;
    stream.write(pcm);
    if (++frames === FRAMES) stream.hangup();
  });
  stream.onClose(() => console.log("call is over"));
  stream.onError((error) => console.log(`error: ${error.message}`));
  await stream.play(greeting); // raw PCM, which it sends at the pace of the call
  isGreeting = false;
});

const greeting = join(mkdtempSync(join(tmpdir(), "greeting-")), "tone.raw");
writeFileSync(greeting, tone(700, 2));
const port = Number(process.env.PORT ?? 9092);
server.listen(port, "127.0.0.1", () => console.log(`AudioSocket on port ${port}`));

function tone(hertz, seconds) {
  const samples = new Int16Array(RATE * seconds);
  samples.forEach((_, at) => (samples[at] = 9000 * Math.sin((2 * Math.PI * hertz * at) / RATE)));
  return Buffer.from(samples.buffer);
}
