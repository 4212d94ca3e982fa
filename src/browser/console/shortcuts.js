// Single-key shortcuts, and the dialog that lists them. They rest while somebody writes, while a dialog is open, and
// when the reader turns them off, as speech control may need (WCAG 2.1.4).

import { el } from "./element.js";
import { t } from "./language.js";

const WRITING = "input:not([type=range]):not([type=checkbox]), textarea, select, dialog";

export class Shortcuts {
    #keys = new Map();
    #areOn = true;
    #dialog = null;

    constructor() {
        addEventListener("keydown", this.#press);
        this.on("?", "shortcut_help", () => this.open());
    }

    /** `key` as KeyboardEvent names it; an upper-case letter is pressed with Shift. */
    on(key, label, run) {
        this.#keys.set(key, { label, run });
    }

    close() {
        removeEventListener("keydown", this.#press);
        this.#dialog?.remove();
    }

    open() {
        this.#dialog?.remove();
        this.#dialog = this.#draw();
        document.body.append(this.#dialog);
        this.#dialog.showModal();
    }

    #press = (event) => {
        const isForUs = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
        if (!isForUs || !this.#areOn || event.target.closest?.(WRITING)) return;
        const shortcut = this.#keys.get(event.key);
        if (!shortcut) return;
        event.preventDefault();
        shortcut.run();
    };

    #draw() {
        const rows = [...this.#keys].map(([key, { label }]) =>
            el("div", { class: "shortcut" }, el("dt", {}, ...keysOf(key)), el("dd", {}, t(label))),
        );
        const onchange = ({ target }) => (this.#areOn = target.checked);
        const onclose = ({ target }) => target.remove();
        return el(
            "dialog",
            { class: "dialog", "aria-labelledby": "shortcuts-title", onclose },
            el(
                "form",
                { method: "dialog" },
                el("h2", { id: "shortcuts-title" }, t("shortcuts")),
                el("dl", { class: "shortcut-list" }, rows),
                el(
                    "label",
                    { class: "check" },
                    el("input", { type: "checkbox", checked: this.#areOn, onchange }),
                    t("shortcuts_on"),
                ),
                el("div", { class: "dialog-buttons" }, el("button", { class: "button primary" }, t("close"))),
            ),
        );
    }
}

function keysOf(key) {
    const isShifted = key.length === 1 && key !== key.toLowerCase();
    return isShifted ? [el("kbd", {}, "Shift"), " ", el("kbd", {}, key)] : [el("kbd", {}, key.toUpperCase())];
}
