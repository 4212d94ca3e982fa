// Asks whom a call goes to: an agent, a queue, a route, or a URL; at once, or after a word with them.

import { el, say, show } from "./element.js";
import { t } from "./language.js";
import { inWords } from "./trouble.js";

const KINDS = ["agent", "queue", "route", "url"];

/** Opens the dialog. `call` is an AgentCall, and `ownName` that of the agent who has it. */
export async function openTransfer(api, call, ownName) {
    const choices = await knownTargets(api, ownName);
    if (document.querySelector("dialog")) return;
    const fields = Object.fromEntries(KINDS.map((kind) => [kind, fieldOf(kind, choices[kind])]));
    const first = choices.agent.some(({ isOff }) => !isOff) ? "agent" : "queue";
    const kinds = KINDS.map((kind) => radio("kind", kind, t(`to_${kind}`), kind === first, () => choose(kind)));
    const warm = radio("how", "warm", t("warm"), true, null, t("warm_help"));
    const blind = radio("how", "blind", t("blind"), false, null, t("blind_help"));
    const trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    const choose = (chosen) => {
        say(blind.querySelector("small"), t(chosen === "queue" ? "blind_help_queue" : "blind_help"));
        for (const kind of KINDS) {
            show(fields[kind].node, kind === chosen);
            fields[kind].input.disabled = kind !== chosen;
        }
    };
    choose(first);

    async function submit(event) {
        event.preventDefault();
        const given = new FormData(event.target);
        const kind = given.get("kind");
        const target = { [kind]: given.get(kind)?.trim() ?? "" };
        try {
            await call.transferTo(target, { warm: given.get("how") === "warm" });
            dialog.close();
        } catch (error) {
            // Here, because everything behind the dialog is out of sight.
            trouble.textContent = inWords(error);
            show(trouble, true);
        }
    }

    const dialog = el(
        "dialog",
        { class: "dialog", "aria-labelledby": "transfer-title", onclose: () => dialog.remove() },
        el(
            "form",
            { onsubmit: submit },
            el("h2", { id: "transfer-title" }, t("transfer")),
            el("fieldset", {}, el("legend", {}, t("transfer_to")), el("div", { class: "segments" }, kinds)),
            KINDS.map((kind) => fields[kind].node),
            el("fieldset", {}, el("legend", {}, t("transfer_how")), el("div", { class: "options" }, warm, blind)),
            trouble,
            el(
                "div",
                { class: "dialog-buttons" },
                el("button", { class: "button", type: "button", onclick: () => dialog.close() }, t("cancel")),
                el("button", { class: "button primary" }, t("transfer")),
            ),
        ),
    );
    document.body.append(dialog);
    dialog.showModal();
}

/** What can be offered. A key that may not read routes types their names. */
async function knownTargets(api, ownName) {
    const [{ queues = [] }, { routes = [] }] = await Promise.all([
        api.get("/v1/queues").catch(() => ({})),
        api.get("/v1/routes?limit=200").catch(() => ({})),
    ]);
    return {
        agent: colleagues(queues, ownName),
        queue: queues.map(({ name, waiting }) => ({
            value: name,
            label: `${name} · ${t("waiting_count", { count: waiting.length })}`,
        })),
        route: routes.map(({ name }) => ({ value: name, label: name })),
        url: [],
    };
}

/** Everybody who is signed in, and first who is free; the others cannot be chosen. */
function colleagues(queues, ownName) {
    const states = new Map(queues.flatMap(({ agents }) => agents.map(({ name, state }) => [name, state])));
    states.delete(ownName);
    const choice = ([name, state]) => ({ value: name, label: `${name} · ${t(`state_${state}`)}`, isOff: state !== "idle" });
    return [...states]
        .map(choice)
        .toSorted((one, other) => one.isOff - other.isOff || one.value.localeCompare(other.value));
}

/** A list where there are choices, and a line to write on where there are none. */
function fieldOf(kind, choices) {
    const input =
        choices.length > 0
            ? el(
                  "select",
                  { id: `to-${kind}`, name: kind, required: true },
                  choices.map(({ value, label, isOff = false }) => el("option", { value, disabled: isOff }, label)),
              )
            : el("input", {
                  id: `to-${kind}`,
                  name: kind,
                  required: true,
                  type: kind === "url" ? "url" : "text",
                  placeholder: kind === "url" ? "wss://" : null,
                  autocomplete: "off",
                  spellcheck: "false",
              });
    return { input, node: el("div", { class: "field" }, el("label", { for: `to-${kind}` }, t(`to_${kind}`)), input) };
}

function radio(name, value, label, checked, onchange, help = null) {
    return el(
        "label",
        { class: "radio" },
        el("input", { type: "radio", name, value, checked, onchange }),
        el("span", {}, el("span", {}, label), help && el("small", {}, help)),
    );
}
