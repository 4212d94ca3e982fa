// Short messages at the edge of the page, which screen readers read aloud, and urgent ones that only they need.

import { Problem } from "./api.js";
import { el } from "./element.js";
import { inWords } from "./trouble.js";

const SHOWN_FOR_MS = 7_000;

export function toast(text, kind = "info") {
    const node = el("p", { class: `toast toast-${kind}` }, text);
    document.getElementById("toasts").append(node);
    setTimeout(() => node.remove(), SHOWN_FOR_MS);
}

/** Runs what a click began, and says what went wrong. Gives whether it went well. */
export async function attempt(work) {
    try {
        await work();
        return true;
    } catch (error) {
        if (!(error instanceof Problem)) console.error(error);
        toast(inWords(error), "trouble");
        return false;
    }
}

/** Interrupts a screen reader: a call rings. Others see it anyway. */
export function announce(text) {
    document.getElementById("urgent").textContent = text;
}
