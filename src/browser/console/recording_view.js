// One recording: fetched when asked for, because an address in the page could not carry the key; then played, drawn and
// offered as a file.

import { el, say, show } from "./element.js";
import { icon } from "./icons.js";
import { clock, t, timeOfDay } from "./language.js";
import { attempt } from "./toast.js";
import { barsIn, drawWaveform, peaksOf } from "./waveform.js";

/** Two hours. Longer ones are played and saved, but not drawn. */
const DRAWN_UP_TO_BYTES = 40_000_000;
/** An hour of Ogg Opus over a slow line. */
const FETCHED_WITHIN_MS = 120_000;

export function recordingView(api, recording) {
    const title = t("recording_of", { time: timeOfDay(recording.began_at), length: clock(recording.duration_ms ?? 0) });
    if (!recording.finished_at) return el("p", { class: "help" }, t("recording_grows"));
    if (!recording.is_kept_here) return el("p", { class: "help" }, t("recording_gone"));
    const node = el("div", { class: "recording" });
    const load = el("button", { class: "button small", "aria-label": title, onclick: open }, icon("play"), t("play"));
    node.append(load, el("span", { class: "help" }, title));

    async function open() {
        load.disabled = true;
        const isOpen = await attempt(async () => {
            const player = new Player(await fetchRecording(api, recording.id), title, recording);
            node.replaceChildren(player.node);
            player.start();
        });
        load.disabled = isOpen;
    }
    return node;
}

async function fetchRecording(api, id) {
    const response = await api.request("GET", `/v1/recordings/${id}`, {
        signal: AbortSignal.timeout(FETCHED_WITHIN_MS),
    });
    return response.blob();
}

class Player {
    node;
    #blob;
    #sound;
    #peaks = null;
    #play;
    #canvas = el("canvas", { class: "waveform", "aria-hidden": "true" });
    #position;
    #time = el("span", { class: "recording-time" });
    #length;

    constructor(blob, title, { id, duration_ms: durationMs }) {
        this.#blob = blob;
        this.#length = (durationMs ?? 0) / 1000;
        const url = URL.createObjectURL(blob);
        this.#sound = new Audio(url);
        this.#play = el("button", { class: "button round", onclick: () => this.#toggle() });
        this.#position = el("input", {
            type: "range",
            min: "0",
            max: String(this.#length),
            step: "0.1",
            value: "0",
            "aria-label": t("position_in", { title }),
            oninput: () => (this.#sound.currentTime = Number(this.#position.value)),
        });
        const save = el(
            "a",
            { class: "button round", href: url, download: `${id}.ogg`, "aria-label": t("save_recording") },
            icon("download"),
        );
        this.node = el(
            "div",
            { class: "player" },
            this.#play,
            el("div", { class: "player-wave" }, this.#canvas, this.#position),
            this.#time,
            save,
        );
        for (const event of ["play", "pause", "ended"]) this.#sound.addEventListener(event, () => this.#showButton());
        this.#sound.addEventListener("timeupdate", () => this.#show());
        this.#showButton();
        this.#show();
    }

    async start() {
        this.#sound.play().catch(() => {});
        if (this.#blob.size > DRAWN_UP_TO_BYTES) return show(this.#canvas, false);
        try {
            this.#peaks = await peaksOf(await this.#blob.arrayBuffer(), barsIn(this.#canvas.clientWidth));
            this.#show();
        } catch {
            // A browser that cannot decode Ogg Opus here may still play it.
            show(this.#canvas, false);
        }
    }

    #toggle() {
        if (this.#sound.paused) attempt(() => this.#sound.play());
        else this.#sound.pause();
    }

    #showButton() {
        this.#play.replaceChildren(icon(this.#sound.paused ? "play" : "hold"));
        this.#play.setAttribute("aria-label", t(this.#sound.paused ? "play" : "pause"));
    }

    #show() {
        const { currentTime } = this.#sound;
        this.#position.value = String(currentTime);
        this.#position.setAttribute("aria-valuetext", clock(currentTime * 1000));
        say(this.#time, `${clock(currentTime * 1000)} / ${clock(this.#length * 1000)}`);
        if (this.#peaks) drawWaveform(this.#canvas, this.#peaks, currentTime / (this.#length || 1));
    }
}
