// The timeline: stages in milliseconds, and each webhook, Graph request and step of the phone with its JSON.

import { jsonBlock, sdpsIn } from "./json.js";

const STAGES = [
  ["taken", "Webhook"],
  ["pre_accepted", "Pre-accepted"],
  ["media_up", "Media up"],
  ["accepted", "Accepted"],
  ["first_sound", "First sound"],
  ["ended", "Ended"],
];
/** Of a call that the business places. */
const STAGES_OF_INCOMING = STAGES.map(([name, title]) => (name === "pre_accepted" ? ["ringing", "Ringing"] : [name, title]));

const LANES = {
  webhook: "Meta → service",
  graph: "Service → Meta",
  phone: "Phone",
  agent: "Agent",
  objection: "Objection",
};

export class Timeline {
  #stages = document.getElementById("stages");
  #entries = document.getElementById("entries");
  #empty = document.getElementById("empty");
  #record = [];

  constructor() {
    this.clear();
  }

  clear(isIncoming = false) {
    this.#record = [];
    this.#entries.replaceChildren();
    this.#empty.hidden = false;
    const stages = isIncoming ? STAGES_OF_INCOMING : STAGES;
    this.#stages.replaceChildren(...stages.map(([name, title]) => stage(name, title)));
  }

  /** The first time counts. */
  stage(name, ms) {
    const item = this.#stages.querySelector(`[data-stage="${name}"]`);
    if (!item || item.dataset.reached) return;
    item.dataset.reached = "yes";
    item.querySelector("b").textContent = shownMs(ms);
  }

  webhook({ at_ms, took_ms, event, copy, body, status, error }) {
    this.#record.push({ kind: "webhook", at_ms, took_ms, event, copy, body, status, error });
    if (event === "connect" && status === 200) this.stage("taken", at_ms + took_ms);
    if (event === "RINGING" && status === 200) this.stage("ringing", at_ms + took_ms);
    const title = copy ? `${event} (copy)` : event;
    const notes = error ? `failed: ${error}` : `answered in ${shownMs(took_ms)}`;
    // A copy stands behind its original, even if it was answered first.
    this.#add("webhook", { at_ms, place: copy ? at_ms + 0.5 : at_ms, title, notes, status: status ?? "failed" }, [["Body", body]]);
  }

  graph({ at_ms, took_ms, action, request, status, reply }) {
    this.#record.push({ kind: "graph", at_ms, took_ms, action, request, status, reply });
    const notes = status === null ? "on purpose" : `replied in ${shownMs(took_ms)}`;
    const parts = [["Request", request]];
    if (reply !== null) parts.push(["Reply", reply]);
    this.#add("graph", { at_ms, title: action, notes, status: status ?? "no reply" }, parts);
  }

  phone({ at_ms, name, title, detail }) {
    this.#record.push({ kind: "phone", at_ms, name, ...detail });
    const { sdp, ...rest } = detail ?? {};
    const parts = [];
    if (Object.keys(rest).length > 0) parts.push(["Detail", rest]);
    if (sdp !== undefined) parts.push(["SDP, line by line", lines(sdp)]);
    this.#add("phone", { at_ms, title }, parts);
  }

  agent({ at_ms, text, failed }) {
    this.#record.push({ kind: "agent", at_ms, text, failed });
    this.#add("agent", { at_ms, title: text, failed }, []);
  }

  objection({ at_ms, text }) {
    this.#record.push({ kind: "objection", at_ms, text });
    this.#add("objection", { at_ms, title: text }, []);
  }

  /** What has happened, in order. */
  asJson() {
    return JSON.stringify(this.#record.toSorted((one, other) => one.at_ms - other.at_ms), null, 2);
  }

  /** Events tell when something began and come when it is over, so a later one may belong before an earlier one. */
  #add(kind, entry, parts) {
    this.#empty.hidden = true;
    const item = element("li", { className: `entry ${kind}` });
    const place = entry.place ?? entry.at_ms;
    item.dataset.at = place;
    item.classList.toggle("failed", entry.failed === true);
    item.append(element("time", { textContent: shownMs(entry.at_ms) }), element("span", { className: "dot", ariaHidden: "true" }));
    item.append(parts.length > 0 ? expandable(kind, entry, parts) : head("p", kind, entry));
    const after = [...this.#entries.children].findLast((other) => Number(other.dataset.at) <= place);
    if (after) after.after(item);
    else this.#entries.prepend(item);
  }
}

function stage(name, title) {
  const item = element("li", {});
  item.dataset.stage = name;
  item.append(element("span", { textContent: title }), element("b", { textContent: "–" }));
  return item;
}

function expandable(kind, entry, parts) {
  const details = element("details", {});
  details.append(head("summary", kind, entry));
  // Made when somebody looks.
  details.addEventListener("toggle", () => details.append(...parts.flatMap(([title, value]) => blocks(title, value))), {
    once: true,
  });
  return details;
}

function head(tag, kind, { title, notes, status }) {
  const line = element(tag, { className: "head" });
  line.append(element("span", { className: "lane", textContent: LANES[kind] }));
  line.append(" ", element("strong", { textContent: title }));
  if (status !== undefined) {
    const good = status >= 200 && status < 300;
    line.append(" ", element("span", { className: `pill ${good ? "good" : "bad"}`, textContent: String(status) }));
  }
  if (notes) line.append(" ", element("span", { className: "notes", textContent: notes }));
  return line;
}

function blocks(title, value) {
  const isText = typeof value === "string";
  const shown = [element("h3", { textContent: title }), isText ? plain(value) : jsonBlock(value)];
  for (const sdp of isText ? [] : sdpsIn(value)) {
    shown.push(element("h3", { textContent: "SDP, line by line" }), plain(lines(sdp)));
  }
  for (const block of shown.filter(({ tagName }) => tagName === "PRE")) {
    // So that the keyboard can scroll it.
    block.tabIndex = 0;
  }
  return shown;
}

function lines(sdp) {
  return sdp.trimEnd().replaceAll("\r\n", "\n");
}

function plain(text) {
  return element("pre", { textContent: text });
}

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function shownMs(ms) {
  return ms < 10_000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}
