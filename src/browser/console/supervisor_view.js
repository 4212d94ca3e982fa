// What a supervisor sees: the queues, and below them every live call with its quality and the buttons to listen,
// whisper, join and end.

import { CallRow } from "./call_row.js";
import { el, say, show, sometimes } from "./element.js";
import { HistoryView } from "./history_view.js";
import { clock, number, percent, t } from "./language.js";
import { Monitor } from "./monitor.js";
import { MonitorView } from "./monitor_view.js";
import { attempt, toast } from "./toast.js";

const TICK_MS = 1_000;
/** With hundreds of calls something changes in every frame; nobody reads so fast. */
const DRAWN_EVERY_MS = 250;
const SPARKLINES_EVERY_TICKS = 10;

export class SupervisorView {
    node;
    #api;
    #floor;
    #monitor;
    #rows = new Map();
    #inSight = new Set();
    #drawnQueues = null;
    #ticks = 0;
    #timer;
    #queues = el("ul", { class: "queue-cards" });
    #count = el("span", { class: "count" });
    #list = el("ul", { class: "rows", "aria-label": t("live_calls"), onkeydown: (event) => moveBetweenRows(event) });
    #empty = el("p", { class: "help empty" }, t("no_live_calls"));
    #connection = el("p", { class: "banner banner-trouble", role: "status" }, t("reconnecting"));
    #search = el("input", {
        type: "search",
        "aria-label": t("filter"),
        placeholder: t("filter"),
        oninput: () => this.#filter(),
    });
    #onlyPoor = el("input", { type: "checkbox", onchange: () => this.#filter() });

    constructor(api, floor, shortcuts) {
        this.#api = api;
        this.#floor = floor;
        this.#monitor = new Monitor(api);
        const history = new HistoryView(api, "/v1/calls?state=ended");
        const past = el(
            "details",
            { class: "past", ontoggle: ({ target }) => target.open && history.refresh() },
            el("summary", {}, t("past_calls")),
            history.node,
        );
        this.node = el(
            "main",
            { class: "floor" },
            el("h1", { class: "unseen" }, t("tab_supervisor")),
            this.#connection,
            el(
                "section",
                { "aria-labelledby": "queues-title" },
                el("h2", { id: "queues-title" }, t("queues")),
                this.#queues,
            ),
            el(
                "section",
                { class: "card live", "aria-labelledby": "live-title" },
                el(
                    "div",
                    { class: "live-head" },
                    el("h2", { id: "live-title" }, t("live_calls"), " ", this.#count),
                    el(
                        "div",
                        { class: "live-filter" },
                        this.#search,
                        el("label", { class: "check" }, this.#onlyPoor, t("only_poor")),
                    ),
                ),
                this.#empty,
                this.#list,
            ),
            past,
            new MonitorView(this.#monitor).node,
        );
        floor.addEventListener(
            "change",
            sometimes(() => this.#render(), DRAWN_EVERY_MS),
        );
        this.#monitor.addEventListener("change", () => this.#markMonitored());
        this.#timer = setInterval(() => this.#tick(), TICK_MS);
        shortcuts.on("/", "filter", () => this.#search.focus());
        shortcuts.on("l", "leave", () => this.#monitor.leave());
        this.#render();
    }

    close() {
        clearInterval(this.#timer);
        this.#monitor.leave();
    }

    #render() {
        show(this.#connection, !this.#floor.isConnected);
        for (const id of this.#floor.takeChanged()) this.#renderCall(id);
        say(this.#count, number(this.#floor.calls.size));
        show(this.#empty, this.#floor.calls.size === 0);
        if (this.#drawnQueues === this.#floor.queues) return;
        this.#drawnQueues = this.#floor.queues;
        this.#queues.replaceChildren(...this.#drawnQueues.map(queueCard));
    }

    /** Only this call's row is touched. */
    #renderCall(id) {
        const call = this.#floor.calls.get(id);
        const row = this.#rows.get(id);
        if (call && row) {
            row.render();
            return this.#filterRow(row);
        }
        if (call) return this.#add(call);
        if (row) this.#remove(id, row);
    }

    #add(call) {
        const row = new CallRow(call, {
            onmonitor: (chosen, role) => attempt(() => this.#monitor.enter(chosen, role)),
            onend: ({ id }) => attempt(() => this.#api.act(id, "hangup")),
        });
        this.#rows.set(call.id, row);
        // At the end, so that no row moves away under a pointer because a call came.
        this.#list.append(row.node);
        // The browser leaves out what is far from sight, and says so.
        row.node.addEventListener("contentvisibilityautostatechange", ({ skipped }) => this.#see(row, skipped));
        this.#filterRow(row);
    }

    #remove(id, row) {
        this.#rows.delete(id);
        this.#inSight.delete(row);
        row.node.remove();
        if (this.#monitor.call?.id !== id) return;
        this.#monitor.leave();
        toast(t("monitored_ended"));
    }

    #markMonitored() {
        const before = this.#list.querySelector("[aria-current]");
        const row = this.#rows.get(this.#monitor.call?.id);
        if (before === (row?.node ?? null)) return;
        before?.removeAttribute("aria-current");
        row?.node.setAttribute("aria-current", "true");
    }

    #filter() {
        for (const row of this.#rows.values()) this.#filterRow(row);
    }

    #filterRow(row) {
        const isFound = row.words.includes(this.#search.value.trim().toLowerCase());
        show(row.node, isFound && (!this.#onlyPoor.checked || row.call.level === "poor"));
    }

    #see(row, isSkipped) {
        if (isSkipped) this.#inSight.delete(row);
        else this.#inSight.add(row);
        row.redraw();
    }

    #tick() {
        if (document.hidden) return;
        this.#ticks += 1;
        for (const row of this.#inSight) {
            row.tick();
            if (this.#ticks % SPARKLINES_EVERY_TICKS === 0) row.redraw();
        }
    }
}

function queueCard({ name, waiting, longest_wait_ms: longest, agents, counts, service_level: level }) {
    const figure = (value, label) => el("div", { class: "figure" }, el("dd", {}, value), el("dt", {}, label));
    return el(
        "li",
        { class: "card queue-card" },
        el("h3", {}, name),
        el(
            "dl",
            { class: "figures" },
            figure(number(waiting.length), t("waiting")),
            figure(waiting.length > 0 ? clock(longest ?? 0) : "–", t("longest_wait")),
            figure(level === null ? "–" : percent(level), t("service_level")),
            figure(number(counts.abandoned), t("abandoned")),
        ),
        el(
            "ul",
            { class: "agents" },
            agents
                .toSorted(byName)
                .map(({ name: agent, state }) =>
                    el(
                        "li",
                        { class: `agent-chip state-${state}` },
                        agent,
                        el("span", { class: "chip-state" }, t(`state_${state}`)),
                    ),
                ),
        ),
    );
}

function byName(a, b) {
    return a.name.localeCompare(b.name);
}

/** Up and down go to the same button of the next row, so that Tab need not walk through all of them. */
function moveBetweenRows(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const button = event.target.closest("button");
    if (!step || !button) return;
    let row = button.closest(".row")[step];
    while (row?.hidden) row = row[step];
    if (!row) return;
    event.preventDefault();
    row.querySelector(`[data-role=${button.dataset.role}]`).focus();
}
