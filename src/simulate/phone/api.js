// The simulator's HTTP: what it is connected to, a call placed, its events, its end.

/** Facts of the simulation: `{agent, webhook, number}`. */
export async function simulation() {
  return reply(await fetch("/api/simulation"));
}

/** Puts an offer into Meta's connect webhook. Returns `{call, seed}`. */
export async function place(order) {
  const headers = { "Content-Type": "application/json" };
  return reply(await fetch("/api/calls", { method: "POST", headers, body: JSON.stringify(order) }));
}

export async function hangUp(call) {
  await reply(await fetch(`/api/calls/${call}/hang_up`, { method: "POST" }));
}

const KINDS = ["answer", "stage", "webhook", "graph", "objection", "ended"];

/** Reads the events of a call. The simulator hangs up when the stream closes, so it is never opened twice. */
export function events(call, { onEvent, onClosed }) {
  const source = new EventSource(`/api/calls/${call}/events`);
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => onEvent(kind, JSON.parse(event.data)));
  }
  source.onerror = () => {
    source.close();
    onClosed();
  };
  return source;
}

async function reply(response) {
  if (response.status === 204) return null;
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `the simulator answered ${response.status}`);
  return body;
}
