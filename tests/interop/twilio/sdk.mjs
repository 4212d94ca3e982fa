// Twilio's REST client for Node, whose requests go to Patchcord: the methods of sdk.py, one for each line on stdin.
import {createInterface} from 'node:readline';
import twilio from 'twilio';

const {TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, PATCHCORD_URL, APP_URL} = process.env;
const client = twilio(TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN);
client.api.baseUrl = PATCHCORD_URL;

const shown = ({sid, status, direction, dateCreated}) => ({sid, status, direction, created: dateCreated.toISOString()});
const asked = {
  list: async () => (await client.calls.list({status: 'in-progress'})).map(({sid}) => sid),
  fetch: async (sid) => shown(await client.calls(sid).fetch()),
  play: async (sid) => shown(await client.calls(sid).update({twiml: '<Response><Play>prompt:goodbye</Play></Response>'})),
  redirect: async (sid) => shown(await client.calls(sid).update({url: `${APP_URL}/voice`, method: 'POST'})),
  hangup: async (sid) => shown(await client.calls(sid).update({status: 'completed'})),
  place: async (to) => shown(await client.calls.create({to, from: '+12025550199', url: `${APP_URL}/voice`, timeout: 20})),
};

for await (const line of createInterface({input: process.stdin})) {
  const [method, argument] = line.split(' ');
  const answer = await asked[method](argument).catch(({code, status}) => ({code, status}));
  console.log(JSON.stringify(answer));
}
