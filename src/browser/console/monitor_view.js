// The bar at the foot of the supervisor's page while they are in a call.

import { el, say, show } from "./element.js";
import { icon } from "./icons.js";
import { callerName, t } from "./language.js";
import { Meter } from "./meter.js";
import { attempt } from "./toast.js";

const ROLES = ["listen", "whisper", "join"];

export class MonitorView {
    node;
    #monitor;
    #text = el("p", { role: "status" });
    #heard = new Meter(t("call"));
    #own = new Meter(t("you"));
    #roles;
    #listening = null;

    constructor(monitor) {
        this.#monitor = monitor;
        this.#roles = ROLES.map((role) =>
            el(
                "button",
                {
                    class: "button small",
                    "data-role": role,
                    onclick: () => attempt(() => monitor.enter(monitor.call, role)),
                },
                icon(role),
                t(role),
            ),
        );
        const leave = el(
            "button",
            { class: "button small", onclick: () => monitor.leave() },
            icon("leave"),
            t("leave"),
        );
        this.node = el(
            "section",
            { class: "monitor", "aria-label": t("you_in_call"), hidden: true },
            this.#text,
            el("div", { class: "meters" }, this.#heard.node, this.#own.node),
            el("div", { class: "monitor-buttons", role: "group", "aria-label": t("your_role") }, this.#roles, leave),
        );
        monitor.addEventListener("change", () => this.#render());
    }

    #render() {
        const { call, role, state, leg, microphone } = this.#monitor;
        show(this.node, call !== null);
        if (!call) {
            this.#heard.stop();
            this.#own.stop();
            this.#listening = null;
            return;
        }
        const name = callerName(call.from);
        say(this.#text, state === "live" ? t(`monitor_${role}`, { name }) : t(`monitor_${state}`, { name }));
        for (const button of this.#roles) button.setAttribute("aria-pressed", String(button.dataset.role === role));
        show(this.#own.node, microphone !== null);
        if (leg.stream.getAudioTracks().length === 0 || leg === this.#listening) return;
        this.#listening = leg;
        this.#heard.listen(leg.stream);
        if (microphone) this.#own.listen(microphone);
    }
}
