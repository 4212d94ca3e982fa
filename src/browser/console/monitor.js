// The supervisor in somebody's call: listening, whispering to the agent, or joining. Another role is another token and
// another connection.

import { Leg } from "./leg.js";
import { closeMicrophone, openMicrophone } from "./microphone.js";

/** Sends `change` events. */
export class Monitor extends EventTarget {
    /** The floor's call, or null. */
    call = null;
    /** `listen`, `whisper` or `join`. */
    role = null;
    state = "closed";
    leg = null;
    microphone = null;
    #api;

    constructor(api) {
        super();
        this.#api = api;
    }

    async enter(call, role) {
        if (this.call?.id === call.id && this.role === role && this.state !== "gone") return;
        const microphone = role === "listen" ? null : await openMicrophone();
        const before = this.leg;
        try {
            const { token } = await this.#api.post(`/v1/calls/${call.id}/webrtc_tokens`, { role });
            const leg = new Leg(this.#api, call.id, microphone ? "sendrecv" : "recvonly");
            leg.addEventListener("change", () => this.#follow(leg));
            this.#replace({ call, role, leg, microphone });
            before?.leave();
            await leg.join(token, microphone?.getAudioTracks()[0] ?? null);
        } catch (error) {
            if (this.microphone === microphone) this.leave();
            else closeMicrophone(microphone);
            throw error;
        }
    }

    leave() {
        this.leg?.leave();
        this.#replace({ call: null, role: null, leg: null, microphone: null });
    }

    #replace({ call, role, leg, microphone }) {
        closeMicrophone(this.microphone);
        Object.assign(this, { call, role, leg, microphone, state: leg?.state ?? "closed" });
        this.dispatchEvent(new Event("change"));
    }

    #follow(leg) {
        if (leg !== this.leg) return;
        this.state = leg.state;
        this.dispatchEvent(new Event("change"));
    }
}
