// The simulator's HTTP: what it is connected to, a call placed, its events, its end.

export const GONE = "The simulator does not answer. Start it again with: patchcord simulate";

/** Facts of the simulation: `{agent, webhook, number}`. */
export function simulation() {
  return ask("/api/simulation");
}

/** Puts an offer into Meta's connect webhook. Returns `{call, seed}`. */
export function place(order) {
  const headers = { "Content-Type": "application/json" };
  return ask("/api/calls", { method: "POST", headers, body: JSON.stringify(order) });
}

export function hangUp(call) {
  return ask(`/api/calls/${call}/hang_up`, { method: "POST" });
}

/** Gives the browser's answer to a call that rings; Meta then says that it rings. */
export function answer(call, sdp) {
  const headers = { "Content-Type": "application/json" };
  return ask(`/api/calls/${call}/answer`, { method: "POST", headers, body: JSON.stringify({ sdp }) });
}

export function pickUp(call) {
  return ask(`/api/calls/${call}/pick_up`, { method: "POST" });
}

export function decline(call) {
  return ask(`/api/calls/${call}/decline`, { method: "POST" });
}

/**
 * May be called as long as this is open: `onRing({call, sdp, from})`. The browser opens it again by itself, and
 * `onReachable` says whether it is open. Gives a function that closes it.
 */
export function phone({ number, name, relay }, { onRing, onReachable }) {
  const source = new EventSource(`/api/phone?${new URLSearchParams({ number, name, relay })}`);
  source.addEventListener("ring", (event) => onRing(JSON.parse(event.data)));
  source.onopen = () => onReachable(true);
  source.onerror = () => onReachable(false);
  return () => source.close();
}

const KINDS = ["answer", "stage", "webhook", "graph", "objection", "agent", "ended"];

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

async function ask(path, options) {
  const response = await fetch(path, options).catch(() => {
    throw new Error(GONE);
  });
  if (response.status === 204) return null;
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `the simulator answered ${response.status}`);
  return body;
}
