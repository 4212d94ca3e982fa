// The form that asks for the key. The browser's password manager may keep it; this page does not.

import { el, show } from "./element.js";
import { currentLanguage, setLanguage, t } from "./language.js";
import { isSecure } from "./microphone.js";
import { LANGUAGES } from "./words.js";
import { inWords } from "./trouble.js";

/** `signIn(key)` does it, and throws why not. `told` is why the agent is here again. */
export function signInView(signIn, { told = null, onlanguage }) {
    const key = el("input", {
        id: "key",
        name: "key",
        type: "password",
        autocomplete: "current-password",
        required: true,
        autofocus: true,
        spellcheck: "false",
        autocapitalize: "none",
        placeholder: "patchcord_…",
        "aria-describedby": "key-help sign-in-trouble",
    });
    const trouble = el("p", { id: "sign-in-trouble", class: "trouble", role: "alert" }, told);
    const button = el("button", { class: "button primary wide" }, t("sign_in"));
    show(trouble, told !== null);

    async function submit(event) {
        event.preventDefault();
        button.disabled = true;
        show(trouble, false);
        try {
            await signIn(key.value.trim());
        } catch (error) {
            trouble.textContent = inWords(error);
            show(trouble, true);
            key.setAttribute("aria-invalid", "true");
            key.select();
        } finally {
            button.disabled = false;
        }
    }

    return el(
        "main",
        { class: "sign-in" },
        el(
            "div",
            { class: "card sign-in-card" },
            el("img", { src: "/console/icon.svg", alt: "", width: "56", height: "56" }),
            el("h1", {}, t("sign_in_title")),
            isSecure() ? null : el("p", { class: "trouble" }, t("trouble_insecure_context")),
            el(
                "form",
                { onsubmit: submit },
                el("input", {
                    type: "text",
                    name: "username",
                    autocomplete: "username",
                    value: "Patchcord",
                    hidden: true,
                }),
                el("label", { for: "key" }, t("key")),
                key,
                el("p", { id: "key-help", class: "help" }, t("key_help")),
                trouble,
                button,
            ),
        ),
        languageChoice(onlanguage),
    );
}

function languageChoice(onlanguage) {
    const onchange = ({ target }) => {
        setLanguage(target.value);
        onlanguage();
    };
    return el(
        "label",
        { class: "language" },
        el("span", {}, t("language")),
        el(
            "select",
            { onchange },
            LANGUAGES.map(({ code, name }) =>
                el("option", { value: code, selected: code === currentLanguage(), lang: code }, name),
            ),
        ),
    );
}
