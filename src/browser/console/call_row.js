// One live call in the supervisor's list. It is made once, changes only where the call did, and ticks only while it is
// in sight, so that five hundred of them cost little.

import { el, say } from "./element.js";
import { icon } from "./icons.js";
import { callerName, clock, hasWords, number, phoneNumber, t } from "./language.js";
import { sparkline } from "./sparkline.js";

/** A second press ends the call, if it comes so soon. */
const SURE_WITHIN_MS = 3_000;

export class CallRow {
    node;
    /** What the filter looks in. */
    words = "";
    #call;
    #spark = sparkline();
    #name = el("span", { class: "row-name" });
    #about = el("span", { class: "row-about" });
    #state = el("span", { class: "row-state" });
    #level = el("span", { class: "level" });
    #time = el("span", { class: "row-time" });
    #end = null;
    #buttons;

    /** `onmonitor(call, role)` joins it; `onend(call)` ends it. */
    constructor(call, { onmonitor, onend }) {
        this.#call = call;
        const button = (role) =>
            el(
                "button",
                { class: "button small row-button", "data-role": role, onclick: () => onmonitor(call, role) },
                icon(role),
                el("span", { class: "row-label" }, t(role)),
            );
        this.#end = el(
            "button",
            { class: "button small row-button row-end", "data-role": "end", onclick: () => this.#endIfSure(onend) },
            icon("hang_up"),
            el("span", { class: "row-label" }, t("end")),
        );
        this.#buttons = [button("listen"), button("whisper"), button("join"), this.#end];
        this.node = el(
            "li",
            { class: "row", "data-call": call.id },
            el("div", { class: "row-who" }, this.#name, this.#about),
            el("div", { class: "row-how" }, this.#state, this.#time),
            el("div", { class: "row-quality" }, this.#spark.node, this.#level),
            el("div", { class: "row-buttons", role: "group" }, this.#buttons),
        );
        this.render();
    }

    get call() {
        return this.#call;
    }

    render() {
        const { from, queue, route, agent, state, isHeld, level, points } = this.#call;
        const name = callerName(from);
        const place = queue ?? route;
        const stateWords = hasWords(`floor_${state}`) ? t(`floor_${state}`) : state;
        say(this.#name, name);
        say(this.#about, [from?.name && phoneNumber(from.wa_id), place].filter(Boolean).join(" · "));
        const how = agent ? t("with_agent", { agent }) : stateWords;
        say(this.#state, isHeld ? `${how} · ${t("floor_held")}` : how);
        this.#state.className = `row-state floor-${agent ? "talking" : state}`;
        this.#level.className = `level level-${level ?? "unknown"}`;
        say(this.#level, level ? `${t(`level_${level}`)} ${number(points.at(-1).score, 1)}` : "–");
        this.node.lastElementChild.setAttribute("aria-label", t("actions_for", { name }));
        this.words = [name, from?.wa_id, place, agent, stateWords].filter(Boolean).join(" ").toLowerCase();
        this.#spark.draw(points);
        this.tick();
    }

    /** Called each second while the row is in sight. */
    tick() {
        say(this.#time, clock(performance.now() - this.#call.startedAt));
    }

    /** Brings time and line up to date; called now and then. */
    redraw() {
        this.tick();
        this.#spark.draw(this.#call.points);
    }

    #endIfSure(onend) {
        const label = this.#end.lastElementChild;
        if (this.#end.classList.contains("danger")) return onend(this.#call);
        this.#end.classList.add("danger");
        say(label, t("end_sure"));
        setTimeout(() => {
            this.#end.classList.remove("danger");
            say(label, t("end"));
        }, SURE_WITHIN_MS);
    }
}
