// Checks messages by the types of @elevenlabs/types, in both directions: each becomes a literal of a TypeScript file, where
// neither a missing field nor an unknown one compiles. Lines of standard input are {"from": "client" or "agent", "message"}.
import {readFileSync} from 'node:fs';
import ts from 'typescript';

const TYPES = `
import type * as T from '@elevenlabs/types';
type Client = T.UserAudio | T.PongClientToOrchestratorEvent | T.ContextualUpdateClientToOrchestratorEvent
  | T.ClientToolResultClientToOrchestratorEvent | T.ConversationInitiationClientToOrchestratorEvent;
type Agent = T.ConversationMetadata | T.AudioClientEvent | T.Interruption | T.Ping | T.ClientToolCallClientEvent;
`;

const messages = readFileSync(0, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
const lines = messages.map(({from, message}) => `(${JSON.stringify(message)}) satisfies ${from === 'client' ? 'Client' : 'Agent'};`);
const file = new URL('messages.ts', import.meta.url).pathname;
const options = {strict: true, noEmit: true, skipLibCheck: true, module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022};
const host = ts.createCompilerHost(options);
const readFile = host.getSourceFile;
host.getSourceFile = (name, version) =>
  name === file ? ts.createSourceFile(name, TYPES + lines.join('\n'), version) : readFile(name, version);
const diagnostics = ts.getPreEmitDiagnostics(ts.createProgram([file], options, host));
for (const {messageText, start, file: source} of diagnostics) {
  const line = source ? source.getLineAndCharacterOfPosition(start).line - TYPES.split('\n').length + 1 : -1;
  console.log('mistake', ts.flattenDiagnosticMessageText(messageText, ' '), 'in', lines[line] ?? 'the types');
}
console.log('checked', messages.length, 'messages');
