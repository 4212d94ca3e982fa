// Makes elements. That is all of our framework.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick: f`) and children. `true` is a bare one; null and false are none. */
export function el(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Shows `node` or hides it; a hidden one takes no focus. */
export function show(node, visible) {
    if (node.hidden === visible) node.hidden = !visible;
}

/** Sets the text, if it is another one: an unchanged text costs no layout, and no screen reader repeats it. */
export function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
}

/** Runs `draw` at most once in `ms`, with the next frame of the screen, however often it is asked. */
export function sometimes(draw, ms = 0) {
    let asked = false;
    const run = () => {
        asked = false;
        draw();
    };
    return () => {
        if (asked) return;
        asked = true;
        if (ms === 0) requestAnimationFrame(run);
        else setTimeout(() => requestAnimationFrame(run), ms);
    };
}

function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return node;
}
