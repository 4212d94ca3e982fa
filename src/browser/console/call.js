// The agent's call: what the page knows of it and what can be done with it. Everything is a request of the control API;
// only muting happens here, so that not even Patchcord gets the sound of a muted microphone.

import { Leg } from "./leg.js";
import { closeMicrophone, isMicrophoneAllowed, openMicrophone } from "./microphone.js";

/** Notes are saved when the agent pauses for so long. */
const NOTES_SAVED_AFTER_MS = 800;
/** Events of what `GET /v1/calls/{id}` says too. */
const TELL_OF_THE_STATE = ["call.held", "call.unheld", "call.agent_joined", "call.transferred"];
/** What the service keeps with a call. */
export const MOST_NOTE_BYTES = 4096;

/** Sends `change` events. */
export class AgentCall extends EventTarget {
    id;
    from;
    queue;
    /** `connecting`, `live`, `restoring`, `gone`, or `over`. */
    state = "connecting";
    isMuted = false;
    isHeld = false;
    /** `{ name, warm, stage }` while another agent is asked; `stage` is `asking` or `consulting`. */
    transfer = null;
    /** Keys that the caller pressed. */
    callerKeys = "";
    /** The data of the last `call.quality`: the sound between caller and Patchcord. */
    callerQuality = null;
    /** `text`, and `state`: `saved`, `unsaved`, `saving` or `refused`. */
    notes = { text: "", state: "saved", problem: null };
    leg = null;
    microphone = null;
    /** On the clock of performance.now(). */
    startedAt = null;
    #api;
    #notesTimer = null;
    /** How many events told of a hold or a transfer. */
    #events = 0;

    constructor(api, { id, from = {}, queue = null }) {
        super();
        this.#api = api;
        Object.assign(this, { id, from, queue });
    }

    /** Opens the microphone, gets a token and joins, as much at once as may be: the caller waits. */
    async connect() {
        this.leg?.close();
        const leg = new Leg(this.#api, this.id, "sendrecv");
        try {
            const opening = this.#openMicrophone();
            // A microphone that is refused leaves the call ringing.
            if (!(await isMicrophoneAllowed())) await opening;
            if (this.isOver) return;
            const [{ token }] = await Promise.all([this.#api.post(`/v1/agent/calls/${this.id}/answer`), opening]);
            if (this.isOver) return;
            this.leg = leg;
            leg.addEventListener("change", () => this.#follow());
            this.#become("connecting");
            await leg.join(token, this.microphone.getAudioTracks()[0]);
            this.#look();
        } finally {
            if (this.leg !== leg) leg.close();
            if (this.isOver) this.close();
        }
    }

    get isOver() {
        return this.state === "over";
    }

    mute(isMuted) {
        this.isMuted = isMuted;
        for (const track of this.microphone?.getAudioTracks() ?? []) track.enabled = !isMuted;
        this.#changed();
    }

    async hold(isHeld) {
        await this.#act(isHeld ? "hold" : "unhold");
        this.isHeld = isHeld;
        this.#changed();
    }

    press(digits) {
        return this.#act("send_dtmf", { digits });
    }

    /** `target` is `{agent}`, `{queue}`, `{route}` or `{url}`. */
    async transferTo(target, { warm }) {
        const [name] = Object.values(target);
        this.transfer = { name, warm, stage: "asking" };
        this.#changed();
        try {
            await this.#act("transfer", { ...target, warm });
        } catch (error) {
            this.transfer = null;
            this.#changed();
            throw error;
        }
    }

    completeTransfer() {
        return this.#act("complete_transfer");
    }

    cancelTransfer() {
        return this.#act("cancel_transfer");
    }

    hangUp() {
        return this.#act("hangup");
    }

    write(text) {
        this.notes = { text, state: "unsaved", problem: null };
        clearTimeout(this.#notesTimer);
        this.#notesTimer = setTimeout(() => this.saveNotes(), NOTES_SAVED_AFTER_MS);
        this.#changed();
    }

    async saveNotes() {
        clearTimeout(this.#notesTimer);
        if (this.notes.state !== "unsaved" && this.notes.state !== "refused") return;
        const { text } = this.notes;
        this.notes.state = "saving";
        const problem = await this.#act("set_client_state", { client_state: text }).then(
            () => null,
            (error) => error,
        );
        // The agent may have gone on writing.
        if (this.notes.text === text) this.notes = { text, state: problem ? "refused" : "saved", problem };
        this.#changed();
    }

    /** One event of this call. */
    take({ type, data = {} }) {
        if (TELL_OF_THE_STATE.includes(type)) this.#events += 1;
        if (type === "call.quality") this.callerQuality = data;
        else if (type === "call.held" || type === "call.unheld") this.isHeld = type === "call.held";
        else if (type === "call.dtmf") this.callerKeys += data.digit ?? "•";
        else if (type === "call.agent_joined" && this.transfer?.warm) this.transfer.stage = "consulting";
        else if (type === "call.transferred") this.#transferred(data);
        else return;
        this.#changed();
    }

    /** The call is over for this agent, or another tab has it. Notes can still be written. */
    close() {
        this.leg?.close();
        closeMicrophone(this.microphone);
        this.microphone = null;
        this.transfer = null;
        this.#become("over");
    }

    async #openMicrophone() {
        this.microphone ??= await openMicrophone();
        this.mute(this.isMuted);
    }

    #transferred({ completed, reason }) {
        const { transfer } = this;
        this.transfer = null;
        if (completed || !transfer) return;
        const detail = { name: transfer.name, reason };
        this.dispatchEvent(new CustomEvent("transferfailed", { detail }));
    }

    /** What the service knows beside the events: the caller, the time, the notes of an agent before. */
    async #look() {
        const before = this.#events;
        const call = await this.#api.get(`/v1/calls/${this.id}`).catch(() => null);
        if (!call) return;
        // What events have overtaken is asked for again.
        if (before !== this.#events) return this.#look();
        this.from = { ...call.from, ...this.from };
        this.queue ??= call.queue ?? call.route;
        this.startedAt ??= performance.now() - (call.talked_ms ?? 0);
        this.isHeld = call.on_hold;
        this.callerQuality ??= call.quality;
        // A page that was reloaded during a transfer goes on with it.
        if (call.transfer) this.transfer ??= { name: call.transfer.to.name, warm: true, stage: call.transfer.stage };
        if (this.notes.state === "saved" && call.client_state) this.notes.text = call.client_state;
        this.#changed();
    }

    #follow() {
        const { state } = this.leg;
        if (this.isOver || state === "closed") return;
        if (state === "live") this.startedAt ??= performance.now();
        this.#become(state);
    }

    #act(action, fields) {
        return this.#api.act(this.id, action, fields);
    }

    #become(state) {
        this.state = state;
        this.#changed();
    }

    #changed() {
        this.dispatchEvent(new Event("change"));
    }
}
