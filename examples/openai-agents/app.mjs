// OpenAI's Agents SDK as it talks with Twilio's callers, and Patchcord's: a realtime agent behind Twilio's stream.
import {RealtimeAgent, RealtimeSession} from '@openai/agents/realtime';
import {TwilioRealtimeTransportLayer} from '@openai/agents-extensions';
import {WebSocketServer} from 'ws';

const agent = new RealtimeAgent({name: 'Assistant', instructions: 'Greet the caller. Be brief.'});
const server = new WebSocketServer({port: process.env.PORT ?? 5050, host: '127.0.0.1'});

server.on('listening', () => console.log('ready'));
server.on('connection', async (socket) => {
  const transport = new TwilioRealtimeTransportLayer({twilioWebSocket: socket});
  const session = new RealtimeSession(agent, {transport, config: {audio: {output: {voice: 'marin'}}}});
  let marks = 0;
  transport.on('*', ({type, message}) => {
    if (type !== 'twilio_message') return;
    if (message.event === 'start') console.log('call from', message.start.customParameters.from_number);
    if (message.event === 'dtmf') console.log('key', message.dtmf.digit);
    if (message.event === 'dtmf' && message.dtmf.digit === '*') {
      // The caller is hung up on: the SDK leaves its model, and closing the WebSocket ends the call.
      session.close();
      socket.close();
    }
    if (message.event === 'mark') marks++;
    if (message.event === 'stop') console.log(`call is over, ${marks} marks`);
  });
  session.on('audio_interrupted', () => console.log('interrupted'));
  session.on('error', ({error}) => console.log('error', error));
  // OPENAI_URL is for a server that stands in for OpenAI's.
  await session.connect({apiKey: process.env.OPENAI_API_KEY, url: process.env.OPENAI_URL});
  transport.sendEvent({type: 'response.create'}); // the agent speaks first
});
