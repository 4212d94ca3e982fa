// This page's end of a call: one WebRTC connection to Patchcord. The offer goes out with a POST, the answer comes back
// with it, candidates follow with PATCH, DELETE leaves (the shape of WHIP, RFC 9725). A network that changes is met
// with an ICE restart; the caller hears the hold prompt until the sound is back.

import { iceFragment, withIceOf } from "./sdp.js";

/** A short interruption heals by itself more often than not. */
const RESTART_AFTER_MS = 1_500;
/** The service keeps our place for so long. */
const RESTORED_WITHIN_MS = 20_000;
const RESTART_AGAIN_AFTER_MS = 1_000;
/** A service that knows this session no longer answers so; any other refusal may pass. */
const FORGOTTEN = [401, 403, 404, 409, 410];
/** Candidates that come together go together. */
const TRICKLE_EVERY_MS = 50;
/** For the candidates of a restart. Host candidates take some milliseconds. */
const GATHERED_WITHIN_MS = 500;

/**
 * Sends `change` events. `state` is `connecting`, `live`, `restoring`, `gone` (the service knows this leg no longer) or
 * `closed` (by us).
 */
export class Leg extends EventTarget {
    state = "connecting";
    /** What is heard, as soon as there is a connection. */
    stream = new MediaStream();
    #api;
    #callId;
    #sender;
    #offered;
    #token = null;
    #session = null;
    #etag = null;
    #candidates = [];
    #trickling = false;
    #restarting = false;
    #ongathered = () => {};
    #brokenSince = null;
    #connection = new RTCPeerConnection({ bundlePolicy: "max-bundle", iceServers: [] });
    #element = new Audio();

    /** `direction` is `sendrecv`, or `recvonly` for who only listens. The offer is made at once, ahead of the token. */
    constructor(api, callId, direction) {
        super();
        this.#api = api;
        this.#callId = callId;
        this.#connection.ontrack = ({ track }) => this.#play(track);
        this.#connection.onicecandidate = ({ candidate }) => this.#trickle(candidate);
        this.#connection.onconnectionstatechange = () => this.#watch();
        this.#sender = this.#connection.addTransceiver("audio", { direction }).sender;
        this.#offered = this.#connection.setLocalDescription();
        // Closed before it was needed.
        this.#offered.catch(() => {});
        addEventListener("online", this.#hurry);
    }

    /** Enters the call with a one-time token, and speaks with `track`, if there is one. */
    async join(token, track) {
        this.#token = token;
        await Promise.all([this.#offered, this.#sender.replaceTrack(track)]);
        // The description names the candidates so far.
        this.#candidates = [];
        const response = await this.#api.request("POST", `/v1/calls/${this.#callId}/webrtc`, {
            token,
            headers: { "Content-Type": "application/sdp" },
            body: this.#connection.localDescription.sdp,
        });
        this.#session = new URL(response.headers.get("Location"), location.href).pathname;
        this.#etag = response.headers.get("ETag");
        const sdp = await response.text();
        if (this.state === "closed") return void this.#forget();
        await this.#connection.setRemoteDescription({ type: "answer", sdp });
        this.#sendCandidates();
    }

    /** Leaves the call. */
    leave() {
        const session = this.#session;
        this.close();
        return session ? this.#forget() : undefined;
    }

    /** Ends the connection and says nothing to the service, which keeps our place for a while. */
    close() {
        this.#become("closed");
        removeEventListener("online", this.#hurry);
        this.#connection.close();
        this.#element.srcObject = null;
    }

    /** What WebRTC counts, as a list; empty once it is over. */
    async statistics() {
        const report = await this.#connection.getStats().catch(() => new Map());
        return [...report.values()];
    }

    #play(track) {
        this.stream.addTrack(track);
        this.#element.srcObject = this.stream;
        // A browser that wants a click first gets the next one.
        this.#element.play().catch(() => addEventListener("pointerdown", () => this.#element.play(), { once: true }));
        this.dispatchEvent(new Event("change"));
    }

    #watch() {
        const { connectionState } = this.#connection;
        if (this.state === "closed") return;
        if (connectionState === "connected") {
            this.#brokenSince = null;
            this.#become("live");
        } else if (connectionState === "disconnected" || connectionState === "failed") {
            this.#brokenSince ??= performance.now();
            this.#become("restoring");
            setTimeout(() => this.#restore(), connectionState === "failed" ? 0 : RESTART_AFTER_MS);
        }
    }

    #hurry = () => this.state === "restoring" && this.#restore();

    /** ICE restarts until one succeeds, the service has forgotten us, or our time is over. */
    async #restore() {
        if (this.#restarting) return;
        this.#restarting = true;
        while (this.state === "restoring" && this.#connection.connectionState !== "connected") {
            if (performance.now() - this.#brokenSince > RESTORED_WITHIN_MS) return this.#become("gone");
            const outcome = await this.#restartIce().catch((problem) => problem);
            if (FORGOTTEN.includes(outcome?.status)) return this.#become("gone");
            if (outcome === "restarted") break;
            await after(RESTART_AGAIN_AFTER_MS);
        }
        this.#restarting = false;
    }

    async #restartIce() {
        const gathered = Promise.race([
            new Promise((resolve) => (this.#ongathered = resolve)),
            after(GATHERED_WITHIN_MS),
        ]);
        this.#connection.restartIce();
        await this.#connection.setLocalDescription();
        await gathered;
        // They are in the description; those of an attempt before belong to no connection any more.
        this.#candidates = [];
        // RFC 9725 §4.3.3: an ICE restart names no version of the session.
        const response = await this.#patch(iceFragment(this.#connection.localDescription.sdp), "*");
        this.#etag = response.headers.get("ETag") ?? this.#etag;
        const sdp = withIceOf(this.#connection.remoteDescription.sdp, await response.text());
        await this.#connection.setRemoteDescription({ type: "answer", sdp });
        return "restarted";
    }

    #trickle(candidate) {
        if (!candidate) this.#ongathered();
        this.#candidates.push(candidate?.candidate ? `a=${candidate.candidate}` : null);
        if (this.#session) this.#sendCandidates();
    }

    /** One PATCH at a time. A null among the candidates is the end of them. */
    async #sendCandidates() {
        if (this.#trickling) return;
        this.#trickling = true;
        await after(TRICKLE_EVERY_MS);
        while (this.#candidates.length > 0 && this.state !== "closed" && !this.#restarting) {
            const batch = this.#candidates.splice(0);
            const named = batch.filter(Boolean);
            const fragment = iceFragment(this.#connection.localDescription.sdp, named, batch.includes(null));
            // The checks of the other candidates go on; one that gets lost may not be needed.
            await this.#patch(fragment, this.#etag).catch(() => {});
        }
        this.#trickling = false;
    }

    #patch(fragment, etag) {
        return this.#api.request("PATCH", this.#session, {
            token: this.#token,
            headers: { "Content-Type": "application/trickle-ice-sdpfrag", ...(etag ? { "If-Match": etag } : {}) },
            body: fragment,
        });
    }

    #forget() {
        return this.#api.request("DELETE", this.#session, { token: this.#token }).catch(() => {});
    }

    #become(state) {
        if (this.state === state) return;
        this.state = state;
        this.dispatchEvent(new Event("change"));
    }
}

function after(ms) {
    return new Promise((resolve) => setTimeout(resolve, ms));
}
