// Past calls, the newest first; each opens to its notes and recordings.

import { el, say, show } from "./element.js";
import { callerName, clock, hasWords, phoneNumber, t, timeOfDay } from "./language.js";
import { recordingView } from "./recording_view.js";
import { inWords } from "./trouble.js";

const MOST = 200;
/** So many are in sight until somebody asks for more. */
const FIRST = 8;

export class HistoryView {
    node;
    #api;
    #path;
    #heading = el("h2");
    #list = el("ul", { class: "history" });
    #empty = el("p", { class: "help" });
    #more = el("button", { class: "button small", onclick: () => this.#showAll() }, t("show_more"));
    #isShort = true;
    #calls = [];
    #caller = null;

    /** `path` is the list of calls to show, with a query. */
    constructor(api, path) {
        this.#api = api;
        this.#path = path;
        this.node = el("section", { class: "card side" }, this.#heading, this.#empty, this.#list, this.#more);
        this.#draw();
    }

    /** Reads the list anew. */
    async refresh() {
        try {
            const caller = this.#caller;
            const only = caller ? `&wa_id=${encodeURIComponent(caller.wa_id)}` : "";
            const calls = await this.#api.list(this.#path + only, "calls", MOST);
            // Another caller may have come meanwhile.
            if (caller !== this.#caller) return;
            this.#calls = calls;
            this.#draw();
            show(this.node, true);
        } catch (error) {
            // A key that may not read past calls does without them.
            show(this.node, error.code !== "missing_scope");
            say(this.#empty, inWords(error));
            show(this.#empty, true);
        }
    }

    /** Only the calls of this caller; null shows everybody's. */
    showOnly(caller) {
        if (caller?.wa_id === this.#caller?.wa_id) return;
        this.#caller = caller?.wa_id ? caller : null;
        this.#isShort = true;
        // What is known already is there at once.
        this.#draw();
        this.refresh();
    }

    #draw() {
        const isWanted = ({ ended_at: ended, from }) => ended && (!this.#caller || from.wa_id === this.#caller.wa_id);
        const calls = this.#calls.filter(isWanted);
        say(
            this.#heading,
            this.#caller ? t("earlier_calls_of", { name: callerName(this.#caller) }) : t("earlier_calls"),
        );
        say(this.#empty, t(this.#caller ? "first_call" : "no_calls"));
        show(this.#empty, calls.length === 0);
        show(this.#more, this.#isShort && calls.length > FIRST);
        const shown = this.#isShort ? calls.slice(0, FIRST) : calls;
        this.#list.replaceChildren(...shown.map((call) => el("li", {}, this.#entry(call))));
    }

    #showAll() {
        this.#isShort = false;
        this.#draw();
        this.#list.children[FIRST].querySelector("summary").focus();
    }

    /** Among one caller's calls the time tells them apart, and the notes say what it was about. */
    #entry(call) {
        const body = el("div", { class: "history-body" });
        const open = ({ target }) => target.open && body.childElementCount === 0 && this.#fill(body, call);
        const [title, beside] = this.#caller
            ? [timeOfDay(call.began_at), null]
            : [callerName(call.from), timeOfDay(call.began_at)];
        return el(
            "details",
            { ontoggle: open },
            el(
                "summary",
                {},
                el("span", { class: "history-name" }, title),
                el("span", { class: "history-time" }, beside),
                el("span", { class: "history-about" }, firstLine(call.client_state) || reasonOf(call)),
                el("span", { class: "history-length" }, call.talked_ms === null ? "–" : clock(call.talked_ms)),
            ),
            body,
        );
    }

    async #fill(body, call) {
        const number = phoneNumber(call.from.wa_id);
        body.append(
            el(
                "p",
                { class: "help" },
                [number, reasonOf(call), t("route_named", { route: call.route })].filter(Boolean).join(" · "),
            ),
        );
        if (call.client_state) body.append(el("p", { class: "history-notes" }, call.client_state));
        if (call.recordings.length === 0) return;
        const place = el("div", { "aria-busy": "true" });
        body.append(place);
        try {
            const { recordings } = await this.#api.get(`/v1/recordings?call_id=${call.id}`);
            place.append(...recordings.map((recording) => recordingView(this.#api, recording)));
        } catch (error) {
            place.append(el("p", { class: "trouble" }, inWords(error)));
        }
        place.removeAttribute("aria-busy");
    }
}

function reasonOf({ reason }) {
    return hasWords(`reason_${reason}`) ? t(`reason_${reason}`) : (reason ?? "");
}

function firstLine(text) {
    return text?.split("\n", 1)[0] ?? "";
}
