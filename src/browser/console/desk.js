// The agent's desk: signed in as long as its event stream is open. It knows whether the agent is available, which call
// rings and which one is on, and what other tabs do.

import { Awake } from "./awake.js";
import { AgentCall } from "./call.js";
import { EventStream } from "./events.js";
import { tryMicrophone } from "./microphone.js";
import { Tabs } from "./tabs.js";

/**
 * Sends `change` events; `ring` and `ringstopped` (with `{reason}`) once for each ring; `trouble` with an error.
 * `state` is the service's word: `signed_out`, `away`, `idle`, `ringing`, `talking` or `wrap_up`.
 */
export class Desk extends EventTarget {
    name;
    queues;
    state = "signed_out";
    /** `agent.ringing`, with `endsAt` on the clock of performance.now(). */
    ring = null;
    /** The call of this tab, also in the wrap-up after it. */
    call = null;
    /** The agent's call, where another window has it. */
    elsewhere = null;
    /** The end of the wrap-up on the clock of performance.now(). */
    wrapUpEndsAt = null;
    isConnected = false;
    #api;
    #tabs;
    #awake = new Awake();
    #stream = null;
    /** How many events told of the agent's state. */
    #events = 0;
    /** Until the first state is known, a call that is on may be this page's, before a reload. */
    #isFresh = true;

    constructor(api, { name, queues }) {
        super();
        this.#api = api;
        Object.assign(this, { name, queues });
        this.#tabs = new Tabs(name);
        this.#tabs.ontaken = (callId) => this.#takenElsewhere(callId);
    }

    open() {
        this.#awake.start();
        this.#stream = new EventStream(this.#api, () => "/v1/agent/events", {
            onopen: () => this.#opened(),
            onlost: () => this.#connected(false),
            onrefused: (problem) => this.#tell("signedout", problem),
            onevent: (type, message) => this.#take(type, message),
        });
    }

    close() {
        this.#awake.stop();
        this.#stream?.close();
        this.#tabs.close();
        this.call?.close();
        this.#stopRing("closed");
    }

    async setAvailable(available) {
        if (available) await tryMicrophone();
        this.#takeState(await this.#api.put("/v1/agent/availability", { available }));
    }

    async answer() {
        if (!this.ring || this.isInCall) return;
        const { call_id: id, from, queue } = this.ring;
        await this.#join(new AgentCall(this.#api, { id, from, queue }));
    }

    async decline() {
        if (!this.ring) return;
        const { call_id: id } = this.ring;
        this.#stopRing("declined");
        await this.#api.post(`/v1/agent/calls/${id}/decline`);
    }

    /** The call that another window has, or that broke, comes to this one. */
    async takeHere() {
        const broken = this.call?.state === "gone" ? this.call : null;
        await this.#join(broken ?? new AgentCall(this.#api, { id: this.elsewhere }));
    }

    get isInCall() {
        return this.call !== null && !this.call.isOver;
    }

    async #join(call) {
        if (this.call !== call) {
            call.addEventListener("change", () => this.#changed());
            call.addEventListener("transferfailed", ({ detail }) => this.#tell("transferfailed", detail));
        }
        this.call = call;
        this.elsewhere = null;
        this.#tabs.take(call.id);
        this.#stopRing("answered_here");
        try {
            await call.connect();
        } catch (error) {
            this.#tabs.release();
            if (call.isOver) return;
            call.close();
            this.call = null;
            // The call rings on, or is somebody else's: the service knows.
            await this.#refresh();
            throw error;
        }
    }

    #opened() {
        this.#connected(true);
        this.#refresh();
    }

    /** The whole state; the stream's first event has no ring in it. What events have overtaken is asked for again. */
    async #refresh() {
        const before = this.#events;
        const agent = await this.#api.get("/v1/agent").catch(() => null);
        if (!agent) return;
        if (before !== this.#events) return this.#refresh();
        Object.assign(this, { queues: agent.queues, name: agent.name });
        this.#takeState(agent);
        if (agent.ring) this.#takeRing(agent.ring);
        else if (this.ring) this.#stopRing("missed");
    }

    #take(type, message) {
        const data = message.data ?? message;
        if (type.startsWith("agent.")) this.#events += 1;
        if (type === "agent.state") this.#takeState(data);
        else if (type === "agent.ringing") this.#takeRing(data);
        else if (type === "agent.ring_stopped") this.#ringStopped(data);
        else if (message.call_id === this.call?.id) this.call.take({ type, data });
    }

    #takeState({ state, call_id: callId, until_ms: untilMs }) {
        this.state = state;
        this.wrapUpEndsAt = state === "wrap_up" && untilMs ? performance.now() + untilMs : null;
        if (state === "talking") this.#talking(callId);
        else this.#notTalking();
        this.#isFresh = false;
        this.#awake.keepScreen(state !== "away" && state !== "signed_out");
        this.#changed();
    }

    async #talking(callId) {
        if (this.isInCall && this.call.id === callId) return;
        if (this.elsewhere === callId) return;
        this.elsewhere = callId;
        // After a reload the caller hears the hold prompt and waits for us. A call of another window is left there.
        const mayRejoin = this.#isFresh && this.#tabs.had(callId);
        if (mayRejoin && !(await this.#tabs.isTaken(callId)) && this.elsewhere === callId) {
            await this.takeHere().catch((error) => this.#tell("trouble", error));
        }
    }

    #notTalking() {
        this.elsewhere = null;
        // While we answer, the service may not know yet.
        if (this.call?.leg && this.state !== "ringing" && !this.call.isOver) this.call.close();
        if (this.state !== "wrap_up" && this.call?.isOver) {
            this.call.saveNotes();
            this.call = null;
        }
        if (!this.isInCall) this.#tabs.release();
    }

    #takeRing(ring) {
        if (this.ring?.call_id === ring.call_id || this.isInCall) return;
        this.ring = {
            ...ring,
            endsAt: performance.now() + ring.ring_ms,
            waitedSince: performance.now() - ring.waited_ms,
        };
        this.dispatchEvent(new CustomEvent("ring", { detail: this.ring }));
        this.#changed();
    }

    #ringStopped({ call_id: callId, reason }) {
        if (this.ring?.call_id === callId) this.#stopRing(reason);
    }

    #stopRing(reason) {
        if (!this.ring) return;
        const { ring } = this;
        this.ring = null;
        this.dispatchEvent(new CustomEvent("ringstopped", { detail: { reason, ring } }));
        this.#changed();
    }

    #takenElsewhere(callId) {
        if (this.ring?.call_id === callId) this.#stopRing("answered_elsewhere");
        if (this.call?.id !== callId || this.call.isOver) return;
        this.call.close();
        this.call = null;
        this.elsewhere = callId;
        this.#changed();
    }

    #connected(isConnected) {
        this.isConnected = isConnected;
        this.#changed();
    }

    #tell(type, detail) {
        this.dispatchEvent(new CustomEvent(type, { detail }));
    }

    #changed() {
        this.dispatchEvent(new Event("change"));
    }
}
