// The console: signs in, and shows the views that the key opens.

import { AgentView } from "./agent_view.js";
import { Api, Problem } from "./api.js";
import { Desk } from "./desk.js";
import { el, show } from "./element.js";
import { Floor } from "./floor.js";
import { icon } from "./icons.js";
import { t } from "./language.js";
import { Shortcuts } from "./shortcuts.js";
import { signInView } from "./sign_in_view.js";
import { allowSound } from "./sound.js";
import { SupervisorView } from "./supervisor_view.js";
import { toast } from "./toast.js";
import { inWords } from "./trouble.js";

const page = document.getElementById("page");
/** What is open while somebody is signed in. */
let session = null;

askForKey();

function askForKey(told = null) {
    document.title = t("title");
    page.replaceChildren(signInView(signIn, { told, onlanguage: () => askForKey(told) }));
}

async function signIn(key) {
    // The click that brought us here is the browser's leave to make sounds.
    allowSound();
    const api = new Api(key);
    const [agent, mayWatch] = await Promise.all([agentOf(api), mayWatchCalls(api)]);
    if (!agent && !mayWatch) throw new Problem({ status: 0, code: "no_view" });
    session = new Session(api, agent, mayWatch);
    page.replaceChildren(session.node);
}

function signOut(told = null) {
    session?.close();
    session = null;
    askForKey(told);
}

/** Whom the key signs in as; null if it is no agent's. */
function agentOf(api) {
    return api.get("/v1/agent").catch(nullIfForbidden);
}

function mayWatchCalls(api) {
    return api.get("/v1/calls?state=live&limit=1").then(() => true, nullIfForbidden);
}

function nullIfForbidden(problem) {
    if (problem.status === 403 && problem.code === "missing_scope") return null;
    if (problem.status === 404) return null;
    throw problem;
}

/** Everything that a key opened. */
class Session {
    node;
    #shortcuts = new Shortcuts();
    #desk = null;
    #floor = null;
    #views = new Map();
    #tabs = new Map();
    #warn = (event) => this.#desk?.isInCall && event.preventDefault();

    constructor(api, agent, mayWatch) {
        const signedOut = ({ detail }) => signOut(inWords(detail));
        if (agent) {
            this.#desk = new Desk(api, agent);
            this.#desk.addEventListener("signedout", signedOut);
            this.#desk.addEventListener("ring", () => this.#open("agent"));
            this.#views.set("agent", new AgentView(api, this.#desk, this.#shortcuts));
            this.#desk.open();
        }
        if (mayWatch) {
            this.#floor = new Floor(api);
            this.#floor.addEventListener("signedout", signedOut);
            this.#views.set("supervisor", new SupervisorView(api, this.#floor, this.#shortcuts));
            this.#floor.open();
        }
        this.node = el(
            "div",
            { class: "app" },
            this.#header(agent),
            ...[...this.#views.values()].map(({ node }) => node),
        );
        this.#open(this.#views.keys().next().value);
        addEventListener("beforeunload", this.#warn);
        addEventListener("offline", () => toast(t("trouble_network"), "trouble"));
    }

    close() {
        removeEventListener("beforeunload", this.#warn);
        for (const part of [...this.#views.values(), this.#desk, this.#floor, this.#shortcuts]) part?.close();
    }

    #header(agent) {
        for (const name of this.#views.keys()) {
            this.#tabs.set(name, el("button", { class: "tab", onclick: () => this.#open(name) }, t(`tab_${name}`)));
        }
        return el(
            "header",
            { class: "top" },
            el("img", { src: "/console/icon.svg", alt: "", width: "28", height: "28" }),
            el("span", { class: "brand" }, "Patchcord"),
            this.#tabs.size > 1
                ? el("nav", { class: "tabs", "aria-label": t("views") }, [...this.#tabs.values()])
                : null,
            el("span", { class: "top-name" }, agent?.name ?? t("tab_supervisor")),
            el(
                "button",
                { class: "button small", "aria-label": t("shortcuts"), onclick: () => this.#shortcuts.open() },
                icon("keyboard"),
            ),
            el("button", { class: "button small", onclick: () => this.#leave() }, t("sign_out")),
        );
    }

    /** Nobody is left ringing at an empty desk, and no caller with one. */
    async #leave() {
        if (this.#desk?.isInCall) return toast(t("sign_out_in_call"), "trouble");
        await this.#desk?.setAvailable(false).catch(() => {});
        signOut();
    }

    #open(chosen) {
        for (const [name, { node }] of this.#views) {
            show(node, name === chosen);
            this.#tabs.get(name)?.setAttribute("aria-current", name === chosen ? "page" : "false");
        }
    }
}
