// The icons, as strokes on a field of 24 × 24. They stand beside words and are hidden from screen readers.

import { svg } from "./element.js";

const HANDSET = "M3 14.5c5-5.3 13-5.3 18 0l-2.2 3-3.8-1.7v-2.6a11 11 0 0 0-6 0v2.6l-3.8 1.7z";

const STROKES = {
    answer: HANDSET,
    hang_up: HANDSET,
    microphone: "M9 6a3 3 0 0 1 6 0v5a3 3 0 0 1-6 0z M5.5 11a6.5 6.5 0 0 0 13 0 M12 17.5V21",
    microphone_off: "M9 6a3 3 0 0 1 6 0v5a3 3 0 0 1-6 0z M5.5 11a6.5 6.5 0 0 0 13 0 M12 17.5V21 M4 3l16 18",
    hold: "M8.5 6v12 M15.5 6v12",
    play: "M8 5.5l10.5 6.5L8 18.5z",
    keypad: "M6 6h.01 M12 6h.01 M18 6h.01 M6 12h.01 M12 12h.01 M18 12h.01 M6 18h.01 M12 18h.01 M18 18h.01",
    transfer: "M4 8h14l-4-4 M20 16H6l4 4",
    listen: "M4 14v-2a8 8 0 0 1 16 0v2 M4 14h3v6H4z M17 14h3v6h-3z",
    whisper: "M4 5h16v11H10l-6 4z",
    join: "M6 8a3 3 0 1 0 6 0a3 3 0 1 0-6 0 M3 20c0-4 2.7-6 6-6s6 2 6 6 M18.5 8v6 M15.5 11h6",
    leave: "M10 4H5v16h5 M10 12h10 M16 8l4 4-4 4",
    download: "M12 4v11 M7.5 11l4.5 4.5 4.5-4.5 M5 20h14",
    keyboard: "M3 7h18v10H3z M7 10.5h.01 M10.5 10.5h.01 M14 10.5h.01 M17.5 10.5h.01 M8 14h8",
};

/** The icon of this name. */
export function icon(name) {
    const turned = name === "answer" ? { transform: "rotate(-130 12 12)" } : {};
    const path = svg("path", { d: STROKES[name], ...turned });
    return svg("svg", { viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" }, path);
}
