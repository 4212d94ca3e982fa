// A jambonz audio app that takes Patchcord's calls: it says one tone, hears the caller, falls silent at the key #, plays a
// clip at 5, and hangs up at *. The tone stands for your own audio; all the rest may stay.
import http from 'node:http';
import {createEndpoint} from '@jambonz/sdk/websocket';

const server = http.createServer();
const makeService = createEndpoint({server});

// PCM, 16 bit, at the rate that the first message names.
function tone(hertz, seconds, rate) {
  const samples = new Int16Array(seconds * rate);
  samples.forEach((_, at) => (samples[at] = 10_000 * Math.sin((2 * Math.PI * hertz * at) / rate)));
  return Buffer.from(samples.buffer);
}

// A tone crosses zero upwards once a period.
function hertz(sound, rate) {
  const samples = new Int16Array(sound.buffer, sound.byteOffset, sound.length / 2);
  let crossings = 0;
  for (let at = 1; at < samples.length; at++) crossings += samples[at - 1] < 0 && samples[at] >= 0;
  return Math.max(...samples) > 1000 ? Math.round((crossings * rate) / samples.length) : 0;
}

makeService.audio({path: '/audio'}).on('connection', (stream) => {
  const {callSid, from, sampleRate} = stream.metadata;
  console.log(`call ${callSid} from ${from} at ${sampleRate} Hz`);
  // All at once: Patchcord paces, and the mark comes back when its place was heard, or cleared.
  const say = (frequency) => {
    stream.sendAudio(tone(frequency, 8, sampleRate));
    stream.sendMark(`${frequency} Hz`);
  };
  let heard = [];
  stream.on('audio', (sound) => {
    heard.push(sound);
    if (heard.length < 25) return; // half a second
    console.log(`hears ${hertz(Buffer.concat(heard), sampleRate)} Hz`);
    heard = [];
  });
  stream.on('dtmf', ({digit}) => {
    console.log(`key ${digit}`);
    if (digit === '#') stream.killAudio();
    if (digit === '5') stream.playAudio(tone(900, 1, sampleRate).toString('base64'), {id: 'clip'});
    if (digit === '*') stream.disconnect();
  });
  stream.on('mark', ({name, event}) => console.log(`mark ${name}: ${event}`));
  stream.on('playDone', ({id}) => console.log(`${id} is done`));
  stream.on('close', (code) => console.log(`call is over: ${code}`));
  say(700);
});

server.listen(process.env.PORT ?? 3000, '127.0.0.1', () => console.log('ready'));
