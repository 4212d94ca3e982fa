// A level meter: a bar that follows the loudness of a stream. It is for the eye; a screen reader passes over it.

import { el } from "./element.js";
import { audioContext } from "./sound.js";

/** Below this a room is silent, and the bar empty. */
const SILENT_DB = -60;
/** How fast the bar falls, in its length for each frame; it rises at once, as a VU meter's peak. */
const FALL = 0.04;

export class Meter {
    node;
    /** The loudest since the last look, 0 to 1. */
    peak = 0;
    #bar = el("span", { class: "meter-bar" });
    #source = null;
    #analyser = audioContext().createAnalyser();
    #samples = new Float32Array(512);
    #level = 0;
    #frame = null;

    constructor(label) {
        this.#analyser.fftSize = 512;
        this.node = el(
            "div",
            { class: "meter", "aria-hidden": "true" },
            el("span", { class: "meter-label" }, label),
            el("span", { class: "meter-track" }, this.#bar),
        );
    }

    /** Shows this stream from now on. */
    listen(stream) {
        this.stop();
        if (stream.getAudioTracks().length === 0) return;
        this.#source = audioContext().createMediaStreamSource(stream);
        this.#source.connect(this.#analyser);
        this.#frame = requestAnimationFrame(this.#draw);
    }

    stop() {
        cancelAnimationFrame(this.#frame);
        this.#source?.disconnect();
        this.#source = null;
    }

    takePeak() {
        const peak = this.peak;
        this.peak = 0;
        return peak;
    }

    #draw = () => {
        this.#analyser.getFloatTimeDomainData(this.#samples);
        const level = levelOf(this.#samples);
        this.#level = Math.max(level, this.#level - FALL);
        this.peak = Math.max(this.peak, level);
        this.#bar.style.setProperty("--level", this.#level.toFixed(3));
        this.#frame = requestAnimationFrame(this.#draw);
    };
}

/** Loudness on a scale that looks even: 0 is silence, 1 is as loud as can be. */
function levelOf(samples) {
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    const db = 10 * Math.log10(power || 1e-12);
    return Math.min(1, Math.max(0, 1 - db / SILENT_DB));
}
