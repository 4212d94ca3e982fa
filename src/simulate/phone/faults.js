// The knobs: what goes wrong on purpose in the next call.

const at = (id) => document.getElementById(id);
const SLIDERS = [
  ["late-answer", "late_answer_ms", "ms"],
  ["loss", "loss_percent", "%"],
  ["delay", "delay_ms", "ms"],
];
const CHOICES = [
  ["webhooks", "webhooks"],
  ["graph-error", "graph_error"],
];

/** Shows what is set as it is moved. */
export function watchFaults() {
  for (const [id] of [...SLIDERS, ...CHOICES]) at(id).addEventListener("input", show);
  at("no-faults").addEventListener("click", () => {
    for (const [id] of SLIDERS) at(id).value = "0";
    for (const [id] of CHOICES) at(id).value = "";
    show();
    at("webhooks").focus();
  });
  // A reload may keep what was set.
  show();
}

/** The `faults` of a call; what is not set is left out. */
export function faults() {
  const set = {};
  for (const [id, key] of SLIDERS) if (Number(at(id).value) > 0) set[key] = Number(at(id).value);
  for (const [id, key] of CHOICES) if (at(id).value !== "") set[key] = at(id).value;
  return set;
}

function show() {
  for (const [id, , unit] of SLIDERS) {
    const shown = `${at(id).value} ${unit}`;
    at(`${id}-shown`).textContent = shown;
    at(id).setAttribute("aria-valuetext", shown);
  }
  const count = Object.keys(faults()).length;
  at("fault-count").textContent = `${count} set`;
  at("fault-count").hidden = count === 0;
  at("no-faults").disabled = count === 0;
}
