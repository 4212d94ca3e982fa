// The same agent in two tabs of one browser: they say to each other who takes a call, so that one answers and the other
// stops ringing at once. Between two machines the service's events do the same, a moment later.

/** For the other tabs to say that they have a call. */
const ANSWERED_WITHIN_MS = 200;
/** Where a tab keeps the id of its call, to find it again after a reload; another tab or window does not see it. */
const CALL = "patchcord-call";
/** Two clicks so close together are one race, and no wish to move the call. */
const RACE_MS = 1_000;

export class Tabs {
    /** Called when another tab takes a call. */
    ontaken = () => {};
    #channel;
    #id = crypto.randomUUID?.() ?? String(Math.random());
    #call = null;
    #tookAt = 0;
    #asked = null;

    constructor(agent) {
        this.#channel = new BroadcastChannel(`patchcord-agent-${agent}`);
        this.#channel.onmessage = ({ data }) => this.#hear(data);
    }

    close() {
        this.#channel.close();
    }

    /** This tab takes the call. */
    take(call) {
        this.#call = call;
        this.#tookAt = Date.now();
        sessionStorage.setItem(CALL, call);
        this.#say("take", call);
    }

    release() {
        this.#call = null;
        sessionStorage.removeItem(CALL);
    }

    /** Whether this tab had the call before it was reloaded. */
    had(call) {
        return sessionStorage.getItem(CALL) === call;
    }

    /** Whether another tab has the call. */
    async isTaken(call) {
        const answer = new Promise((resolve) => (this.#asked = resolve));
        this.#say("who_has", call);
        const timer = setTimeout(() => this.#asked(false), ANSWERED_WITHIN_MS);
        const isTaken = await answer;
        clearTimeout(timer);
        this.#asked = null;
        return isTaken;
    }

    #say(kind, call) {
        this.#channel.postMessage({ kind, call, tab: this.#id, at: this.#tookAt });
    }

    #hear({ kind, call, tab, at }) {
        const isOurs = call === this.#call;
        if (kind === "who_has" && isOurs) this.#say("have", call);
        if (kind === "have") this.#asked?.(true);
        if (kind !== "take") return;
        if (isOurs && this.#winsOver({ tab, at })) return this.#say("take", call);
        if (isOurs) this.release();
        this.ontaken(call);
    }

    /** The later wish, or in a race the lower id: both tabs decide alike, however late they hear of each other. */
    #winsOver({ tab, at }) {
        const later = this.#tookAt - at;
        return Math.abs(later) < RACE_MS ? this.#id < tab : later > 0;
    }
}
