// The app of app.py with Twilio's Node library: a menu in TwiML, and behind key 1 a media stream that echoes. In the stream
// key 1 repeats the last half second for eight seconds, an octave higher, # stops that, and * hangs up. Nothing in it is
// about Patchcord.
import http from 'node:http';
import twilio from 'twilio';
import {WebSocketServer} from 'ws';

const PUBLIC = process.env.TWILIO_PUBLIC_BASE_URL; // such as https://bot.example.com
const SOCKETS = PUBLIC.replace('http', 'ws');

// Whether Twilio, or Patchcord in its place, has signed it: forms, and the upgrade of the stream.
function isSigned(request, base, form) {
  const signature = request.headers['x-twilio-signature'] ?? '';
  return twilio.validateRequest(process.env.TWILIO_AUTH_TOKEN, signature, base + request.url, form);
}

const pages = {
  '/voice': ({CallSid, CallStatus}, response) => {
    console.log(`voice ${CallSid} ${CallStatus}`);
    response.gather({numDigits: 1, timeout: 5, action: '/menu'}).play('prompt:beep');
    response.redirect('/voice');
  },
  '/menu': ({Digits}, response) => {
    console.log(`menu ${Digits}`);
    if (Digits === '1') response.redirect('/talk');
    response.play('prompt:goodbye');
  },
  '/talk': (_form, response) => {
    const stream = response.connect().stream({url: `${SOCKETS}/media`, statusCallback: `${PUBLIC}/status`});
    stream.parameter({name: 'plan', value: 'gold'});
  },
  '/status': ({StreamEvent}) => console.log(StreamEvent),
};

const server = http.createServer(async (request, reply) => {
  const body = (await request.toArray()).join('');
  const form = Object.fromEntries(new URLSearchParams(body));
  const page = pages[request.url];
  if (!page || !isSigned(request, PUBLIC, form)) return reply.writeHead(page ? 403 : 404).end();
  const response = new twilio.twiml.VoiceResponse();
  page(form, response);
  reply.writeHead(200, {'Content-Type': 'text/xml'}).end(response.toString());
});

const sockets = new WebSocketServer({noServer: true});
server.on('upgrade', (request, socket, head) => {
  if (!isSigned(request, SOCKETS, {})) return socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
  sockets.handleUpgrade(request, socket, head, talk);
});

function talk(socket) {
  let [heard, isRepeating] = [Buffer.alloc(0), false];
  socket.on('message', (text) => {
    const {event, streamSid, start, media, dtmf, mark} = JSON.parse(text);
    const send = (event, more) => socket.send(JSON.stringify({event, streamSid, ...more}));
    if (event === 'start') {
      console.log(`start ${start.callSid} ${JSON.stringify(start.customParameters)}`);
    } else if (event === 'media') {
      heard = Buffer.concat([heard, Buffer.from(media.payload, 'base64')]).subarray(-4000);
      if (!isRepeating) send('media', {media: {payload: media.payload}});
    } else if (event === 'dtmf') {
      console.log(`key ${dtmf.digit}`);
      if (dtmf.digit === '1') {
        isRepeating = true;
        const octave = heard.filter((_, at) => at % 2 === 0);
        send('media', {media: {payload: Buffer.concat(Array(32).fill(octave)).toString('base64')}});
        send('mark', {mark: {name: 'repeated'}});
      } else if (dtmf.digit === '#') {
        send('clear');
      } else if (dtmf.digit === '*') {
        socket.close(1000);
      }
    } else if (event === 'mark') {
      console.log(`mark ${mark.name}`);
      isRepeating = false;
    } else if (event === 'stop') {
      console.log('stop');
    }
  });
}

const port = process.env.PORT ?? 5000;
server.listen(port, '127.0.0.1', () => console.log(`Running on http://127.0.0.1:${port}`));
