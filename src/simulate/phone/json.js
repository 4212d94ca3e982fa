// JSON as elements: indented, coloured, and never read as HTML.

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** A `<pre>` of this value. */
export function jsonBlock(value) {
  const text = JSON.stringify(value, null, 2);
  const block = document.createElement("pre");
  let last = 0;
  for (const match of text.matchAll(TOKEN)) {
    block.append(text.slice(last, match.index));
    const [whole, string, colon, word] = match;
    if (string !== undefined) {
      block.append(span(colon === undefined ? "string" : "key", string), colon ?? "");
    } else {
      block.append(span(word === undefined ? "digits" : "word", whole));
    }
    last = match.index + whole.length;
  }
  block.append(text.slice(last));
  return block;
}

/** Every SDP inside this value, however deep. */
export function sdpsIn(value) {
  if (typeof value === "string") return value.startsWith("v=0") ? [value] : [];
  if (value === null || typeof value !== "object") return [];
  return Object.values(value).flatMap(sdpsIn);
}

function span(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}
