// The language of the page: words from the table, numbers and times as people write them.

import { LANGUAGES, WORDS } from "./words.js";

let language = firstKnown([new URLSearchParams(location.search).get("lang"), ...navigator.languages]);
document.documentElement.lang = language;

/** The words of `key`, with `{name}` replaced by `values.name`. */
export function t(key, values = {}) {
    const words = WORDS[key]?.[LANGUAGES.findIndex(({ code }) => code === language)] ?? key;
    return words.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Whether the table has such words; for codes that the service may send and the table may not know. */
export function hasWords(key) {
    return key in WORDS;
}

export function currentLanguage() {
    return language;
}

/** The choice stays in the address, so that a reload and a bookmark keep it. */
export function setLanguage(code) {
    language = firstKnown([code]);
    document.documentElement.lang = language;
    const address = new URL(location.href);
    address.searchParams.set("lang", language);
    history.replaceState(null, "", address);
}

/** Milliseconds as a clock shows them: 4:07, or 1:04:07. */
export function clock(ms) {
    const seconds = Math.max(0, Math.floor(ms / 1000));
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
    const two = (number) => String(number).padStart(2, "0");
    return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/** An RFC 3339 time: the hour if it is today, and the day too if it is not. */
export function timeOfDay(text) {
    const time = new Date(text);
    const isToday = time.toDateString() === new Date().toDateString();
    const day = isToday ? {} : { day: "numeric", month: "short" };
    return new Intl.DateTimeFormat(language, { ...day, hour: "2-digit", minute: "2-digit" }).format(time);
}

export function number(value, digits = 0) {
    return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(
        value,
    );
}

/** 0.93 as 93 %. */
export function percent(share) {
    return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format(share);
}

/** A caller by name, or by number, or as a stranger. */
export function callerName(from) {
    return from?.name || phoneNumber(from?.wa_id) || t("unknown_caller");
}

export function phoneNumber(waId) {
    return waId ? `+${waId}` : "";
}

function firstKnown(wanted) {
    const codes = LANGUAGES.map(({ code }) => code);
    return wanted.map((tag) => tag?.slice(0, 2).toLowerCase()).find((code) => codes.includes(code)) ?? "en";
}
