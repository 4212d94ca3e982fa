// An echo bot behind AudioSocket, on the npm package asterisk-audiosocket: it greets with a tone, then says back what it hears.
//
//     npm install && PORT=9092 node app.mjs
//
// [routes.reception]
// agent = "audiosocket://127.0.0.1:9092"

import { AudioSocketServer, SAMPLE_RATE } from "asterisk-audiosocket";

const server = new AudioSocketServer({ port: Number(process.env.PORT ?? 9092) });

server.on("connection", (call) => {
  let isGreeting = true;
  call.on("id", async (uuid) => {
    console.log(`call ${uuid}`);
    await call.play(tone(700, 2));
    isGreeting = false;
    console.log("the greeting is sent");
  });
  call.on("audio", (pcm) => {
    if (!isGreeting) call.play(pcm);
  });
  // The package does not know keys, and takes their frame for an error.
  call.on("error", (error) => {
    const key = Number(/code=(\d+)/.exec(error.message)?.[1]);
    if (!key) return console.log(`error: ${error.message}`);
    console.log(`key ${String.fromCharCode(key)}`);
    if (key === "#".charCodeAt(0)) call.hangup();
  });
  call.on("hangup", () => console.log("call is over"));
});

await server.listen();
console.log(`AudioSocket on port ${server.address.port}`);

function tone(hertz, seconds) {
  const pcm = Buffer.alloc(2 * SAMPLE_RATE * seconds);
  for (let at = 0; at < SAMPLE_RATE * seconds; at++) {
    pcm.writeInt16LE(Math.round(9000 * Math.sin((2 * Math.PI * hertz * at) / SAMPLE_RATE)), 2 * at);
  }
  return pcm;
}
