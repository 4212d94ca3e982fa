// The floor: all live calls and all queues, as the supervisor sees them. A list is read once, events keep it true, and
// the view learns only which calls changed.

import { EventStream } from "./events.js";

/** Queues are read anew when an event may have changed them, but not more often than this, and at least so often. */
const QUEUES_AT_MOST_EVERY_MS = 1_000;
const QUEUES_AT_LEAST_EVERY_MS = 10_000;
/** Estimates of quality come every ten seconds, and are events only when the level changes. */
const CALLS_EVERY_MS = 30_000;
/** Points of a sparkline. */
const MOST_POINTS = 60;
/** More live calls than this are not shown. */
const MOST_CALLS = 5_000;

/** How a call stands after an event. The events of queues know more than those of the call itself. */
const STATES = {
    "call.agent_joined": "talking",
    "queue.entered": "waiting",
    "queue.offered": "ringing_agent",
    "queue.missed": "waiting",
    "queue.returned": "waiting",
    "queue.answered": "talking",
};
/** After these nobody has the caller. */
const WITHOUT_AGENT = ["queue.entered", "queue.returned", "call.agent_left", "call.agent_lost"];

/** Sends `change` events; `takeChanged()` says of which calls. */
export class Floor extends EventTarget {
    /** By id: `{ id, from, route, queue, agent, state, isHeld, startedAt, level, points }`, the newest last. */
    calls = new Map();
    queues = [];
    isConnected = false;
    #api;
    #stream;
    #changed = new Set();
    #callsTimer = null;
    #queuesTimer = null;
    #queuesReadAt = 0;
    /** Ids that ended while the list was being read. */
    #ended = new Set();

    constructor(api) {
        super();
        this.#api = api;
    }

    open() {
        const pathAfter = (id) => (id ? `/v1/events?after=${encodeURIComponent(id)}` : "/v1/events");
        this.#stream = new EventStream(this.#api, pathAfter, {
            // The list is read after the stream is open, so that nothing falls between them.
            onopen: () => this.#opened(),
            onlost: () => this.#connected(false),
            onrefused: (problem) => this.dispatchEvent(new CustomEvent("signedout", { detail: problem })),
            onevent: (type, event) => this.#take(event),
        });
        this.#callsTimer = setInterval(() => this.#readCalls(), CALLS_EVERY_MS);
        this.#readQueuesSoon(QUEUES_AT_LEAST_EVERY_MS);
    }

    close() {
        this.#stream?.close();
        clearInterval(this.#callsTimer);
        clearTimeout(this.#queuesTimer);
        this.#queuesTimer = "closed";
    }

    /** The ids of calls that came, changed or ended since the last time. */
    takeChanged() {
        const changed = this.#changed;
        this.#changed = new Set();
        return changed;
    }

    async #opened() {
        this.#connected(true);
        await this.#readCalls();
        this.#readQueuesSoon(0);
    }

    async #readCalls() {
        this.#ended.clear();
        const live = await this.#api.list("/v1/calls?state=live", "calls", MOST_CALLS).catch(() => null);
        if (!live) return;
        const ids = new Set(live.map(({ id }) => id));
        // A call that began meanwhile need not be in the list.
        for (const { id, isNew } of [...this.calls.values()]) if (!ids.has(id) && !isNew) this.#remove(id);
        for (const call of live.reverse()) if (!this.#ended.has(call.id)) this.#learn(call);
        this.#changedNow();
    }

    #learn({ id, from, route, state, queue, agent, on_hold: isHeld, quality, duration_ms: durationMs }) {
        const call = this.calls.get(id) ?? newCall(id);
        const startedAt = call.isNew ? performance.now() - durationMs : call.startedAt;
        // What the events of a queue have said of a caller that waits is more than this.
        const waits = queue && !agent && state === "talking";
        const known = { queue: queue ?? null, agent: agent ? shownAgent(agent) : null, isHeld };
        Object.assign(call, { from, route, ...known, startedAt, isNew: false });
        call.state = waits ? (call.state === "ringing_agent" ? call.state : "waiting") : state;
        this.calls.set(id, call);
        if (quality) this.#hear(call, quality);
        this.#changed.add(id);
    }

    #take({ type, call_id: id, data = {} }) {
        if (type.startsWith("queue.")) this.#readQueuesSoon(QUEUES_AT_MOST_EVERY_MS);
        if (type === "call.ended") {
            this.#ended.add(id);
            this.#remove(id);
            return this.#changedNow();
        }
        if (type === "call.incoming") this.calls.set(id, { ...newCall(id), from: data.from, route: data.route });
        const call = this.calls.get(id);
        if (!call) return;
        call.state = STATES[type] ?? call.state;
        if (type === "call.accepted" && !call.queue) call.state = "talking";
        if (WITHOUT_AGENT.includes(type)) call.agent = null;
        if (type === "queue.entered") call.queue = data.queue;
        if (type === "queue.answered") call.agent = data.agent;
        if (type === "call.held" || type === "call.unheld") call.isHeld = type === "call.held";
        if (type === "call.quality") this.#hear(call, data);
        this.#changed.add(id);
        this.#changedNow();
    }

    #hear(call, { level, mean_opinion_score: score }) {
        call.level = level;
        // Each is true until the next, so that one of the same score adds nothing.
        if (call.points.at(-1)?.score !== score) call.points.push({ at: performance.now(), score });
        if (call.points.length > MOST_POINTS) call.points.shift();
    }

    #remove(id) {
        this.calls.delete(id);
        this.#changed.add(id);
    }

    #readQueuesSoon(within) {
        if (this.#queuesTimer === "closed") return;
        const since = performance.now() - this.#queuesReadAt;
        clearTimeout(this.#queuesTimer);
        this.#queuesTimer = setTimeout(() => this.#readQueues(), Math.max(0, within - since));
    }

    async #readQueues() {
        this.#queuesReadAt = performance.now();
        const found = await this.#api.get("/v1/queues").catch(() => null);
        this.#readQueuesSoon(QUEUES_AT_LEAST_EVERY_MS);
        if (!found) return;
        this.queues = found.queues;
        for (const { name, waiting, agents } of this.queues) {
            for (const { call_id: id, rings_at: ringsAt } of waiting) {
                this.#place(id, { queue: name, state: ringsAt ? "ringing_agent" : "waiting" });
            }
            for (const { name: agent, state, call_id: id } of agents) {
                if (id && state === "talking") this.#place(id, { agent, state });
            }
        }
        this.#changedNow();
    }

    #place(id, facts) {
        const call = this.calls.get(id);
        if (!call || Object.entries(facts).every(([key, value]) => call[key] === value)) return;
        Object.assign(call, facts);
        this.#changed.add(id);
    }

    #connected(isConnected) {
        this.isConnected = isConnected;
        this.#changedNow();
    }

    #changedNow() {
        this.dispatchEvent(new Event("change"));
    }
}

function newCall(id) {
    return {
        id,
        from: {},
        route: "",
        queue: null,
        agent: null,
        isHeld: false,
        state: "ringing",
        startedAt: performance.now(),
        level: null,
        points: [],
        isNew: true,
    };
}

/** The name of a person, or the address of a bot. */
function shownAgent({ name }) {
    return name.replace(/^wss?:\/\//, "");
}
