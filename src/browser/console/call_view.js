// The call that is on: who it is, how long it lasts, how it sounds, and what can be done.

import { MOST_NOTE_BYTES } from "./call.js";
import { el, say, show } from "./element.js";
import { icon } from "./icons.js";
import { KeypadView } from "./keypad_view.js";
import { callerName, clock, phoneNumber, t } from "./language.js";
import { Meter } from "./meter.js";
import { QualityView } from "./quality_view.js";
import { attempt } from "./toast.js";
import { openTransfer } from "./transfer_view.js";
import { inWords } from "./trouble.js";

/** A microphone that gives nothing for so long is unplugged, or muted at its own switch. */
const DEAF_AFTER_MS = 8_000;

export class CallView {
    node;
    #api;
    #desk;
    #call = null;
    #heard = { stream: null, tracks: 0 };
    #spokeAt = 0;
    #name = el("h1", { class: "call-name", tabindex: "-1" });
    #about = el("p", { class: "call-about" });
    #status = el("p", { class: "call-status", role: "status" });
    #time = el("p", { class: "call-time", role: "timer" });
    #callerMeter = new Meter(t("caller"));
    #ownMeter = new Meter(t("you"));
    #deaf = el("p", { class: "trouble" }, t("trouble_silent_microphone"));
    #mute = toggleButton("microphone", "mute", () => this.toggleMute());
    #hold = toggleButton("hold", "hold", () => this.toggleHold());
    #keys = toggleButton("keypad", "keypad", () => this.toggleKeypad());
    #transfer = actionButton("transfer", () => this.openTransfer());
    #end = actionButton("hang_up", () => this.end(), "danger");
    #keypad = new KeypadView((digit) => this.#call.press(digit));
    #transferring = new TransferBanner(() => this.#call);
    #quality = new QualityView();
    #callerKeys = el("p", { class: "help" });
    #takeHere = el(
        "button",
        { class: "button primary", onclick: () => attempt(() => this.#desk.takeHere()) },
        t("rejoin"),
    );
    #notes;

    constructor(api, desk, notes) {
        this.#api = api;
        this.#desk = desk;
        this.#notes = notes;
        this.node = el(
            "section",
            { class: "card call", "aria-label": t("call") },
            el("div", { class: "call-head" }, el("div", { class: "call-who" }, this.#name, this.#about), this.#time),
            this.#status,
            this.#takeHere,
            el("div", { class: "meters" }, this.#callerMeter.node, this.#ownMeter.node),
            this.#deaf,
            this.#transferring.node,
            el(
                "div",
                { class: "controls", role: "group", "aria-label": t("call_controls") },
                this.#mute.node,
                this.#hold.node,
                this.#keys.node,
                this.#transfer,
                this.#end,
            ),
            this.#keypad.node,
            this.#callerKeys,
            this.#quality.node,
        );
    }

    /** Shows this call; null rests. */
    render(call) {
        if (call !== this.#call) this.#change(call);
        if (!call) return;
        const isLive = call.state === "live";
        say(this.#name, callerName(call.from));
        say(this.#about, [phoneNumber(call.from.wa_id), call.queue].filter(Boolean).join(" · "));
        say(this.#status, t(statusOf(call)));
        this.#status.className = `call-status ${statusOf(call)}`;
        show(this.#takeHere, call.state === "gone");
        this.#mute.set(
            call.isMuted,
            t(call.isMuted ? "unmute" : "mute"),
            call.isMuted ? "microphone_off" : "microphone",
        );
        this.#hold.set(call.isHeld, t(call.isHeld ? "unhold" : "hold"), call.isHeld ? "play" : "hold");
        this.#keys.set(this.#keypad.isOpen, t("keypad"), "keypad");
        this.#keys.node.setAttribute("aria-expanded", String(this.#keypad.isOpen));
        for (const button of [this.#hold.node, this.#keys.node, this.#transfer]) button.disabled = !isLive;
        this.#transfer.disabled ||= call.transfer !== null;
        this.#transferring.render(call.transfer);
        say(this.#callerKeys, call.callerKeys && t("caller_pressed", { keys: call.callerKeys }));
        show(this.#callerKeys, call.callerKeys !== "");
        this.#listen(call);
    }

    /** Called some times a second. */
    tick() {
        if (!this.#call) return;
        const { startedAt, isMuted, state } = this.#call;
        say(this.#time, startedAt === null ? "" : clock(performance.now() - startedAt));
        if (isMuted || state !== "live" || this.#ownMeter.takePeak() > 0) this.#spokeAt = performance.now();
        show(this.#deaf, performance.now() - this.#spokeAt > DEAF_AFTER_MS);
    }

    toggleMute() {
        this.#call?.mute(!this.#call.isMuted);
    }

    toggleHold() {
        if (this.#call?.state === "live") attempt(() => this.#call.hold(!this.#call.isHeld));
    }

    toggleKeypad() {
        if (this.#call?.state !== "live") return;
        this.#keypad.toggle();
        this.render(this.#call);
    }

    openTransfer() {
        const isFree = this.#call?.state === "live" && !this.#call.transfer;
        if (isFree) openTransfer(this.#api, this.#call, this.#desk.name);
    }

    end() {
        if (this.#call) attempt(() => this.#call.hangUp());
    }

    #change(call) {
        this.#call = call;
        this.#keypad.reset();
        this.#quality.follow(call);
        this.#heard = { stream: null, tracks: 0 };
        this.#spokeAt = performance.now();
        if (call) requestAnimationFrame(() => this.#name.focus());
        else for (const meter of [this.#callerMeter, this.#ownMeter]) meter.stop();
    }

    /** The meters follow a leg that was replaced. */
    #listen({ leg, microphone }) {
        const stream = leg?.stream ?? null;
        const tracks = stream?.getAudioTracks().length ?? 0;
        if (tracks === 0 || (stream === this.#heard.stream && tracks === this.#heard.tracks)) return;
        this.#heard = { stream, tracks };
        this.#callerMeter.listen(stream);
        if (microphone) this.#ownMeter.listen(microphone);
    }
}

/** The notes, which outlive the call: they are finished in the wrap-up. */
export class NotesView {
    node;
    #call = null;
    #text = el("textarea", { id: "notes", rows: "5", "aria-describedby": "notes-state" });
    #state = el("p", { id: "notes-state", class: "help", role: "status" });

    constructor() {
        this.#text.addEventListener("input", () => this.#write());
        this.#text.addEventListener("blur", () => this.#call?.saveNotes());
        this.node = el(
            "section",
            { class: "card notes" },
            el("label", { for: "notes" }, t("notes")),
            this.#text,
            this.#state,
        );
    }

    render(call) {
        show(this.node, call !== null);
        const isNew = call !== this.#call;
        this.#call = call;
        if (!call) return;
        const { text, state } = call.notes;
        const isWriting = document.activeElement === this.#text;
        if (isNew || !isWriting) this.#text.value = text;
        say(this.#state, wordsOfNotes(call));
        this.#state.classList.toggle("trouble", state === "refused");
    }

    focus() {
        this.#text.focus();
    }

    /** The bound is in bytes, and a letter may have four. */
    #write() {
        const bytes = new TextEncoder().encode(this.#text.value);
        if (bytes.length > MOST_NOTE_BYTES) {
            this.#text.value = new TextDecoder().decode(bytes.slice(0, MOST_NOTE_BYTES)).replace(/\uFFFD$/, "");
        }
        this.#call?.write(this.#text.value);
    }
}

function wordsOfNotes({ notes: { text, state, problem }, isOver }) {
    if (state === "refused") return isOver ? t("notes_late") : inWords(problem);
    return text === "" ? t("notes_help") : t(`notes_${state}`);
}

/** What stands over the controls while a transfer is under way. */
class TransferBanner {
    node;
    #text = el("p", { role: "status" });
    #complete;
    #cancel;

    constructor(call) {
        this.#complete = el(
            "button",
            { class: "button primary", onclick: () => attempt(() => call().completeTransfer()) },
            t("put_through"),
        );
        this.#cancel = el(
            "button",
            { class: "button", onclick: () => attempt(() => call().cancelTransfer()) },
            t("back_to_caller"),
        );
        this.node = el(
            "div",
            { class: "banner", hidden: true },
            this.#text,
            el("div", { class: "banner-buttons" }, this.#complete, this.#cancel),
        );
    }

    render(transfer) {
        show(this.node, transfer !== null);
        if (!transfer) return;
        const isConsulting = transfer.stage === "consulting";
        say(this.#text, t(isConsulting ? "consulting" : "asking", { name: transfer.name }));
        show(this.#complete, isConsulting);
    }
}

function statusOf({ state, isHeld, isMuted }) {
    if (state !== "live") return `call_${state}`;
    if (isHeld) return "call_held";
    return isMuted ? "call_muted" : "call_live";
}

function actionButton(name, onclick, kind = "") {
    return el("button", { class: `control ${kind}`, type: "button", onclick }, icon(name), el("span", {}, t(name)));
}

/** A button whose words say what the next press does; while it is on, it looks pressed. */
function toggleButton(name, words, onclick) {
    const label = el("span", {}, t(words));
    const node = el("button", { class: "control", type: "button", onclick }, icon(name), label);
    let shown = name;
    return {
        node,
        set(isOn, text, iconName) {
            node.classList.toggle("on", isOn);
            say(label, text);
            if (iconName !== shown) node.firstElementChild.replaceWith(icon((shown = iconName)));
        },
    };
}
