// Loss, jitter and round trip of the two halves of a call: from here to Patchcord, and from Patchcord to the caller.

import { el, say } from "./element.js";
import { number, t } from "./language.js";
import { LegQuality, levelOf } from "./quality.js";

const LOOK_EVERY_MS = 1_000;

export class QualityView {
    node;
    #call = null;
    #reader = null;
    #timer = null;
    #here = rowOf(t("quality_here"));
    #caller = rowOf(t("quality_caller"));

    constructor() {
        const heads = ["quality", "loss", "jitter", "round_trip"].map((key) => el("th", { scope: "col" }, t(key)));
        this.node = el(
            "table",
            { class: "quality" },
            el("caption", { class: "unseen" }, t("quality_live")),
            el("thead", {}, el("tr", {}, el("td"), heads)),
            el("tbody", {}, this.#here.node, this.#caller.node),
        );
    }

    /** Follows this call; null rests. */
    follow(call) {
        if (call === this.#call) return;
        this.#call = call;
        this.#reader = new LegQuality();
        clearInterval(this.#timer);
        if (call) this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
        this.#here.set({});
        this.#caller.set({});
    }

    async #look() {
        const { leg, callerQuality } = this.#call;
        if (leg) {
            const found = this.#reader.read(await leg.statistics());
            const loss = Math.max(found.lossInPercent ?? 0, found.lossOutPercent ?? 0);
            this.#here.set({ level: levelOf(found), loss, jitter: found.jitterMs, roundTrip: found.roundTripMs });
        }
        if (callerQuality) {
            const { level, loss_from_caller_percent: from, loss_to_caller_percent: to } = callerQuality;
            const loss = Math.max(from ?? 0, to ?? 0);
            this.#caller.set({ level, loss, jitter: callerQuality.jitter_ms, roundTrip: callerQuality.round_trip_ms });
        }
    }
}

function rowOf(label) {
    const level = el("span", { class: "level" }, "–");
    const [loss, jitter, roundTrip] = [el("td", {}, "–"), el("td", {}, "–"), el("td", {}, "–")];
    const shown = (value, unit, digits = 0) =>
        value === null || value === undefined ? "–" : `${number(value, digits)} ${unit}`;
    return {
        node: el("tr", {}, el("th", { scope: "row" }, label), el("td", {}, level), loss, jitter, roundTrip),
        set(found) {
            level.className = `level level-${found.level ?? "unknown"}`;
            say(level, found.level ? t(`level_${found.level}`) : "–");
            say(loss, shown(found.loss, "%", 1));
            say(jitter, shown(found.jitter, "ms"));
            say(roundTrip, shown(found.roundTrip, "ms"));
        },
    };
}
