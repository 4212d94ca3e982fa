// Twelve keys for the tones of a telephone. While it is open, the keyboard's digits press them too.

import { el, show } from "./element.js";
import { t } from "./language.js";
import { attempt } from "./toast.js";

const KEYS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "*", "0", "#"];
const SPOKEN = { "*": "key_star", "#": "key_hash" };

export class KeypadView {
    node;
    #press;
    #pressed = el("output", { class: "keypad-pressed", "aria-label": t("keys_pressed") });
    #first;

    /** `press(digit)` sends one. */
    constructor(press) {
        this.#press = press;
        const buttons = KEYS.map((key) =>
            el(
                "button",
                {
                    class: "key",
                    type: "button",
                    "aria-label": SPOKEN[key] ? t(SPOKEN[key]) : null,
                    onclick: () => this.#send(key),
                },
                key,
            ),
        );
        [this.#first] = buttons;
        this.node = el(
            "section",
            { class: "keypad", "aria-label": t("keypad"), hidden: true, onkeydown: this.#type },
            this.#pressed,
            el("div", { class: "keypad-keys" }, buttons),
        );
    }

    get isOpen() {
        return !this.node.hidden;
    }

    toggle() {
        show(this.node, !this.isOpen);
        if (this.isOpen) this.#first.focus();
    }

    reset() {
        show(this.node, false);
        this.#pressed.textContent = "";
    }

    #type = (event) => {
        if (!KEYS.includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        this.#send(event.key);
    };

    async #send(key) {
        if (await attempt(() => this.#press(key))) this.#pressed.textContent += key;
    }
}
