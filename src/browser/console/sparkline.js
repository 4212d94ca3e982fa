// A line the size of a word: a call's mean opinion score over the last minutes.

import { svg } from "./element.js";

const WIDTH = 96;
const HEIGHT = 24;
const SHOWN_MS = 300_000;
/** The mean opinion score goes from 1 to 4.5. */
const WORST = 1;
const BEST = 4.5;

export function sparkline() {
    const path = svg("path", { class: "spark-line" });
    const end = svg("circle", { class: "spark-end", r: "2" });
    const node = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" }, path, end);
    end.setAttribute("visibility", "hidden");
    return {
        node,
        /** `points` are `{at, score}`, each true until the next. */
        draw(points, now = performance.now()) {
            if (points.length === 0) return;
            const x = (at) => (WIDTH - 4) * Math.max(0, 1 - (now - at) / SHOWN_MS);
            const y = (score) => 2 + (HEIGHT - 4) * (1 - (score - WORST) / (BEST - WORST));
            const steps = points.map(({ at, score }, index) =>
                index === 0
                    ? `M${x(at).toFixed(1)} ${y(score).toFixed(1)}`
                    : `H${x(at).toFixed(1)}V${y(score).toFixed(1)}`,
            );
            path.setAttribute("d", `${steps.join("")}H${x(now).toFixed(1)}`);
            end.setAttribute("cx", x(now).toFixed(1));
            end.setAttribute("cy", y(points.at(-1).score).toFixed(1));
            end.setAttribute("visibility", "visible");
        },
    };
}
