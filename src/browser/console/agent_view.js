// What an agent sees: the availability switch, then one stage for what happens now (waiting, a ring, the call, the
// wrap-up), with the queues and the earlier calls beside it.

import { CallView, NotesView } from "./call_view.js";
import { el, say, show, sometimes } from "./element.js";
import { HistoryView } from "./history_view.js";
import { icon } from "./icons.js";
import { callerName, clock, hasWords, phoneNumber, t } from "./language.js";
import { mayAskForNotifications, Ring } from "./ring.js";
import { announce, attempt, toast } from "./toast.js";
import { inWords } from "./trouble.js";

const TICK_MS = 250;
const QUEUES_EVERY_MS = 5_000;

export class AgentView {
    node;
    #api;
    #desk;
    #bell = new Ring();
    #availability;
    #stages;
    #notes = new NotesView();
    #history;
    #queues;
    #connection = el("p", { class: "banner banner-trouble", role: "status" }, t("reconnecting"));
    #timers = [];

    constructor(api, desk, shortcuts) {
        this.#api = api;
        this.#desk = desk;
        this.#history = new HistoryView(api, "/v1/calls?mine=true");
        this.#queues = new QueuesView(api);
        this.#availability = new Availability(desk);
        this.#stages = new Stages(api, desk, this.#notes);
        this.node = el(
            "main",
            { class: "agent" },
            el(
                "div",
                { class: "agent-main" },
                this.#connection,
                this.#availability.node,
                this.#stages.node,
                this.#notes.node,
            ),
            el("div", { class: "agent-side" }, this.#history.node, this.#queues.node),
        );
        this.#listen();
        this.#teach(shortcuts);
        this.#timers = [
            setInterval(() => this.#stages.tick(), TICK_MS),
            setInterval(() => this.#queues.refresh(), QUEUES_EVERY_MS),
        ];
        this.#queues.refresh();
        this.#history.refresh();
        this.#render();
    }

    close() {
        this.#timers.forEach(clearInterval);
        this.#bell.stop();
    }

    #listen() {
        const desk = this.#desk;
        let [lastCall, wasInCall] = [null, false];
        desk.addEventListener(
            "change",
            sometimes(() => this.#render()),
        );
        desk.addEventListener("change", () => {
            // Once when the call is over, and again with its last notes.
            if ((wasInCall && !desk.isInCall) || (lastCall && !desk.call)) this.#history.refresh();
            [lastCall, wasInCall] = [desk.call, desk.isInCall];
        });
        desk.addEventListener("ring", ({ detail: ring }) => {
            this.#bell.start(ring);
            const words = ring.queue ? "announce_ring" : "announce_ring_transferred";
            announce(t(words, { name: callerName(ring.from), queue: ring.queue }));
        });
        desk.addEventListener("ringstopped", ({ detail: { reason, ring } }) => {
            this.#bell.stop();
            announce("");
            const words = `stopped_${reason}`;
            if (hasWords(words)) toast(t(words, { name: callerName(ring.from) }));
        });
        desk.addEventListener("transferfailed", ({ detail: { name, reason } }) => {
            const why = hasWords(`transfer_${reason}`) ? t(`transfer_${reason}`) : (reason ?? "");
            toast(t("transfer_failed", { name, why }), reason === "cancelled" ? "info" : "trouble");
        });
        desk.addEventListener("trouble", ({ detail }) => toast(inWords(detail), "trouble"));
    }

    #teach(shortcuts) {
        const { call } = this.#stages;
        shortcuts.on("a", "answer", () => this.#stages.answer());
        shortcuts.on("d", "decline", () => attempt(() => this.#desk.decline()));
        shortcuts.on("v", "shortcut_availability", () => this.#availability.toggle());
        shortcuts.on("m", "shortcut_mute", () => call.toggleMute());
        shortcuts.on("h", "shortcut_hold", () => call.toggleHold());
        shortcuts.on("k", "keypad", () => call.toggleKeypad());
        shortcuts.on("t", "transfer", () => call.openTransfer());
        shortcuts.on("n", "notes", () => this.#notes.focus());
        shortcuts.on("E", "hang_up", () => call.end());
    }

    #render() {
        const desk = this.#desk;
        show(this.#connection, !desk.isConnected);
        this.#availability.render();
        this.#stages.render();
        this.#notes.render(desk.call);
        this.#history.showOnly(desk.ring?.from ?? desk.call?.from ?? null);
    }
}

/** The switch between available and away. */
class Availability {
    node;
    #desk;
    #switch = el("button", { class: "switch", role: "switch", "aria-checked": "false", onclick: () => this.toggle() });
    #state = el("p", { class: "availability-state", role: "status" });
    #notify = el("button", { class: "button small", onclick: () => this.#askForNotifications() }, t("notify_me"));
    #trouble = el("p", { class: "trouble", role: "alert" });
    #isSwitching = false;

    constructor(desk) {
        this.#desk = desk;
        this.#switch.append(el("span", { class: "switch-knob" }), el("span", {}, t("available")));
        this.node = el(
            "section",
            { class: "card availability", "aria-label": t("availability") },
            this.#switch,
            this.#state,
            this.#notify,
            this.#trouble,
        );
        show(this.#trouble, false);
    }

    render() {
        const { state } = this.#desk;
        this.#switch.setAttribute("aria-checked", String(this.#isOn));
        // The service takes it only from a page whose event stream is open.
        this.#switch.disabled = this.#isSwitching || state === "signed_out";
        this.#state.className = `availability-state state-${state}`;
        say(this.#state, t(`state_${state}`));
        show(this.#notify, mayAskForNotifications());
    }

    async toggle() {
        if (this.#switch.disabled) return;
        show(this.#trouble, false);
        this.#isSwitching = true;
        this.render();
        try {
            await this.#desk.setAvailable(!this.#isOn);
        } catch (error) {
            // It stays until the next try: it says what to change in the browser.
            this.#trouble.textContent = inWords(error);
            show(this.#trouble, true);
        } finally {
            this.#isSwitching = false;
            this.render();
        }
    }

    get #isOn() {
        return !["signed_out", "away"].includes(this.#desk.state);
    }

    async #askForNotifications() {
        await Notification.requestPermission();
        this.render();
    }
}

/** One card for what happens now. */
class Stages {
    node;
    call;
    #desk;
    #cards;
    #ringName = el("h1", { class: "ring-name" });
    #ringAbout = el("p", { class: "ring-about" });
    #ringTime = el("p", { class: "ring-time" });
    #answer = el("button", { class: "button answer", onclick: () => this.answer() }, icon("answer"), t("answer"));
    #wrapUpTime = el("p", { class: "stage-figure", role: "timer" });

    constructor(api, desk, notes) {
        this.#desk = desk;
        this.call = new CallView(api, desk, notes);
        const decline = el(
            "button",
            { class: "button decline", onclick: () => attempt(() => desk.decline()) },
            icon("hang_up"),
            t("decline"),
        );
        const ready = el(
            "button",
            { class: "button primary", onclick: () => attempt(() => desk.setAvailable(true)) },
            t("ready"),
        );
        const takeHere = el(
            "button",
            { class: "button primary", onclick: () => attempt(() => desk.takeHere()) },
            t("take_here"),
        );
        this.#cards = {
            away: stage(t("away_title"), t("away_help")),
            idle: stage(t("idle_title"), t("idle_help")),
            ringing: el(
                "section",
                { class: "card ring", "aria-label": t("ringing") },
                el("p", { class: "ring-lead" }, t("ringing")),
                this.#ringName,
                this.#ringAbout,
                this.#ringTime,
                el("div", { class: "ring-buttons" }, this.#answer, decline),
            ),
            call: this.call.node,
            wrap_up: stage(t("wrap_up_title"), t("wrap_up_help"), this.#wrapUpTime, ready),
            elsewhere: stage(t("elsewhere_title"), t("elsewhere_help"), takeHere),
        };
        this.node = el("div", { class: "stages" }, ...Object.values(this.#cards));
    }

    answer() {
        if (this.#desk.ring) attempt(() => this.#desk.answer());
    }

    render() {
        const { ring, call } = this.#desk;
        const now = this.#now();
        const isNewRing = now === "ringing" && this.#cards.ringing.hidden;
        for (const [name, card] of Object.entries(this.#cards)) show(card, name === now);
        this.call.render(now === "call" ? call : null);
        if (ring) {
            say(this.#ringName, callerName(ring.from));
            say(
                this.#ringAbout,
                [ring.from?.name && phoneNumber(ring.from.wa_id), ring.queue ?? t("transferred_to_you")]
                    .filter(Boolean)
                    .join(" · "),
            );
        }
        // The focus comes to the answer, but never out of a text that somebody writes.
        if (isNewRing && !document.activeElement?.matches("input, textarea")) this.#answer.focus();
        this.tick();
    }

    tick() {
        const { ring, wrapUpEndsAt } = this.#desk;
        if (ring)
            say(
                this.#ringTime,
                t("ring_time", { waited: clock(performance.now() - ring.waitedSince), left: left(ring.endsAt) }),
            );
        say(this.#wrapUpTime, wrapUpEndsAt ? left(wrapUpEndsAt) : "");
        this.call.tick();
    }

    #now() {
        const { ring, call, elsewhere, state } = this.#desk;
        if (call && !call.isOver) return "call";
        if (ring) return "ringing";
        if (elsewhere) return "elsewhere";
        if (state === "wrap_up") return "wrap_up";
        return state === "away" || state === "signed_out" ? "away" : "idle";
    }
}

/** How many wait in the agent's queues. */
class QueuesView {
    node;
    #api;
    #list = el("ul", { class: "queue-list" });

    constructor(api) {
        this.#api = api;
        this.node = el("section", { class: "card side" }, el("h2", {}, t("queues")), this.#list);
    }

    async refresh() {
        const found = await this.#api.get("/v1/queues").catch(() => null);
        if (!found) return;
        this.#list.replaceChildren(
            ...found.queues.map(({ name, waiting, longest_wait_ms: longest, agents }) => {
                const free = agents.filter((agent) => agent.state === "idle").length;
                const wait = waiting.length > 0 ? t("longest", { time: clock(longest ?? 0) }) : null;
                const figures = [t("waiting_count", { count: waiting.length }), wait, t("free_count", { count: free })];
                return el(
                    "li",
                    {},
                    el("span", { class: "queue-name" }, name),
                    el("span", { class: "help" }, figures.filter(Boolean).join(" · ")),
                );
            }),
        );
    }
}

/** The time until then: seconds, or minutes and seconds. */
function left(endsAt) {
    const seconds = Math.max(0, Math.ceil((endsAt - performance.now()) / 1000));
    return seconds < 60 ? t("seconds", { seconds }) : clock(seconds * 1000);
}

function stage(title, help, ...more) {
    return el("section", { class: "card stage" }, el("h1", {}, title), el("p", { class: "help" }, help), ...more);
}
