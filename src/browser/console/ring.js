// Rings: a sound made here, the page's title, and a notification if the agent allowed them.

import { callerName, t } from "./language.js";
import { audioContext } from "./sound.js";

/** The two tones of a bell, gentle to wear in headphones. */
const TONES_HZ = [587.33, 739.99];
const STROKE_S = 0.4;
const EVERY_MS = 2_500;
const LOUDNESS = 0.12;

export class Ring {
    #timer = null;
    #titles = null;
    #notification = null;

    start({ from, queue }) {
        this.stop();
        this.#strike();
        this.#timer = setInterval(() => this.#strike(), EVERY_MS);
        const title = t("title_ringing", { name: callerName(from) });
        document.title = title;
        let odd = false;
        this.#titles = setInterval(() => (document.title = (odd = !odd) ? t("title") : title), 1_000);
        if (document.hidden) this.#notify(title, queue);
    }

    stop() {
        clearInterval(this.#timer);
        clearInterval(this.#titles);
        document.title = t("title");
        this.#notification?.close();
        this.#notification = null;
    }

    #strike() {
        const context = audioContext();
        for (const [index, frequency] of [...TONES_HZ, ...TONES_HZ].entries()) {
            const at = context.currentTime + index * STROKE_S * 0.6;
            const tone = new OscillatorNode(context, { frequency, type: "sine" });
            const loudness = new GainNode(context, { gain: 0 });
            loudness.gain.setValueAtTime(0, at);
            loudness.gain.linearRampToValueAtTime(LOUDNESS, at + 0.02);
            loudness.gain.exponentialRampToValueAtTime(0.001, at + STROKE_S);
            tone.connect(loudness).connect(context.destination);
            tone.start(at);
            tone.stop(at + STROKE_S);
        }
    }

    #notify(title, body) {
        if (window.Notification?.permission !== "granted") return;
        try {
            this.#notification = new Notification(title, { body, icon: "/console/icon.svg", tag: "patchcord-ring" });
            this.#notification.onclick = () => window.focus();
        } catch {
            // Android's browsers take notifications from service workers only.
        }
    }
}

/** Whether it makes sense to ask for notifications. */
export function mayAskForNotifications() {
    return window.isSecureContext && window.Notification?.permission === "default";
}
