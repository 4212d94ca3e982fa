// The page: buttons, states and words of the phone.

import { GONE, phone, simulation } from "./api.js";
import { PhoneCall } from "./call.js";
import { faults, watchFaults } from "./faults.js";
import { Level } from "./levels.js";
import { NoSound, openSound, ringback, ringtone } from "./sound.js";
import { Timeline } from "./timeline.js";

const at = (id) => document.getElementById(id);
const QUALITY_EVERY_MS = 1000;
const TITLE = document.title;

const KEYS = [
  ["1", ""], ["2", "ABC"], ["3", "DEF"],
  ["4", "GHI"], ["5", "JKL"], ["6", "MNO"],
  ["7", "PQRS"], ["8", "TUV"], ["9", "WXYZ"],
  ["*", ""], ["0", "+"], ["#", ""],
];
const KEY_NAMES = { "*": "star", "#": "hash" };

const STATUS = {
  idle: "Ready to call",
  starting: "Opening the microphone",
  calling: "Calling",
  ringing: "Ringing",
  incoming: "Incoming call",
  taking: "Opening the microphone",
  connected: "Connected",
  ended: "Call ended",
};

const ENDED_BY = {
  caller: "You hung up",
  declined: "You declined",
  rejected: "The service rejected the call",
  terminated: "The service hung up",
  heard_nothing: "The phone heard nothing for too long",
  rang_in_vain: "Nobody accepted the call in time",
  webhook_failed: "The service did not take the connect webhook",
};
/** Of a call that the business placed. */
const ENDED_BY_INCOMING = { ...ENDED_BY, rang_in_vain: "You let it ring" };

/** The page's one phone. */
class PhonePage {
  #timeline = new Timeline();
  #you = new Level(at("you-level"));
  #agent = new Level(at("agent-level"));
  #state = "idle";
  #context = null;
  /** The call under way. */
  #call = null;
  /** The call that the timeline shows, under way or over. */
  #latest = null;
  #sound = null;
  #stopRinging = null;
  #answeredAt = 0;
  #quality = 0;
  #isIncoming = false;
  #closePhone = null;

  constructor() {
    makeKeypad((key) => this.#press(key));
    watchFaults();
    at("call").addEventListener("click", () => this.#main());
    at("decline").addEventListener("click", () => this.#decline());
    for (const id of ["from", "name", "relay"]) at(id).addEventListener("change", () => this.#openPhone());
    at("mute").addEventListener("click", () => this.#mute(at("mute").ariaPressed !== "true"));
    at("keys").addEventListener("click", () => this.#showKeypad(at("keypad").hidden));
    at("copy").addEventListener("click", () => this.#copy());
    at("handset").addEventListener("keydown", (event) => this.#typed(event));
    void showTarget();
    this.#openPhone();
  }

  /** What the round button in the middle does. */
  #main() {
    if (this.#state === "incoming") return this.#take();
    return this.#isBusy() ? this.#hangUp() : this.#start();
  }

  /** From now on the business's calls to this number ring here. */
  #openPhone() {
    this.#closePhone?.();
    const person = { number: at("from").value, name: at("name").value, relay: at("relay").value };
    const onReachable = (isReachable) => (at("handset").dataset.reachable = isReachable ? "yes" : "no");
    onReachable(false);
    this.#closePhone = phone(person, { onRing: (ring) => this.#ringsHere(ring), onReachable });
  }

  async #ringsHere(ring) {
    // Meta lets nobody have two calls; this one belongs to another page with the same number.
    if (this.#isBusy()) return;
    at("alert").hidden = true;
    this.#timeline.clear(true);
    at("line").textContent = "";
    const call = new PhoneCall((kind, data) => this.#happened(call, kind, data));
    this.#call = this.#latest = call;
    this.#isIncoming = true;
    this.#enter("incoming");
    this.#makeItRing();
    try {
      await call.ring(ring);
    } catch (error) {
      if (this.#call !== call) return;
      this.#over("The call cannot be answered");
      void call.hangUp();
      this.#complain(error);
    }
  }

  /** A page that nobody has touched may not play anything; then it rings without a sound. */
  #makeItRing() {
    this.#context ??= new AudioContext();
    if (this.#context.state === "running") this.#stopRinging = ringtone(this.#context);
  }

  async #take(sound = at("sound").value) {
    const call = this.#call;
    at("alert").hidden = true;
    this.#silenceRing();
    this.#enter("taking");
    try {
      await this.#context.resume();
      const opened = await openSound(sound, at("processing").checked, this.#context);
      if (this.#call !== call) return opened.stop();
      this.#sound = opened;
      this.#you.follow(this.#context, opened.stream);
      requestAnimationFrame((now) => this.#draw(now));
      await call.pickUp(opened.stream);
    } catch (error) {
      if (this.#call !== call) return;
      // It still rings.
      this.#enter("incoming");
      this.#complain(error);
    }
  }

  async #decline() {
    try {
      await this.#call.decline();
    } catch (error) {
      this.#over(STATUS.ended);
      this.#complain(error);
    }
  }

  async #start(sound = at("sound").value) {
    at("alert").hidden = true;
    this.#timeline.clear();
    at("line").textContent = "";
    this.#enter("starting");
    const call = new PhoneCall((kind, data) => this.#happened(call, kind, data));
    this.#call = this.#latest = call;
    this.#isIncoming = false;
    try {
      this.#context ??= new AudioContext();
      await this.#context.resume();
      const opened = await openSound(sound, at("processing").checked, this.#context);
      if (this.#call !== call) return opened.stop();
      this.#sound = opened;
      this.#you.follow(this.#context, this.#sound.stream);
      requestAnimationFrame((now) => this.#draw(now));
      this.#enter("calling");
      await call.start(this.#sound.stream, { from: at("from").value, name: at("name").value, faults: faults() });
    } catch (error) {
      if (this.#call !== call) return;
      this.#over("The call was not placed");
      void call.hangUp();
      this.#complain(error);
    }
  }

  #happened(call, kind, data) {
    if (call !== this.#latest) return;
    switch (kind) {
      case "webhook":
        this.#timeline.webhook(data);
        if (data.event === "connect" && data.status === 200 && this.#state === "calling") this.#ring();
        break;
      case "graph":
        this.#timeline.graph(data);
        break;
      case "objection":
        this.#timeline.objection(data);
        break;
      case "agent":
        this.#timeline.agent(data);
        break;
      case "phone":
        this.#timeline.phone(data);
        this.#timeline.stage(data.name, data.at_ms);
        break;
      case "stage":
        this.#timeline.stage(data.name, data.ms);
        if (data.name === "accepted" && this.#call === call) this.#accepted();
        break;
      case "sound":
        this.#hear(call, data.stream);
        break;
      case "ended":
        if (this.#call === call) this.#over((this.#isIncoming ? ENDED_BY_INCOMING : ENDED_BY)[data.by] ?? STATUS.ended);
        break;
      case "lost":
        if (this.#call !== call) return;
        this.#over(STATUS.ended);
        this.#complain(new Error(GONE));
        break;
    }
  }

  #ring() {
    this.#enter("ringing");
    this.#stopRinging = ringback(this.#context);
  }

  #accepted() {
    this.#silenceRing();
    this.#answeredAt = performance.now();
    at("clock").hidden = false;
    at("clock").textContent = "0:00";
    this.#enter("connected");
    this.#quality = setInterval(() => this.#showQuality(), QUALITY_EVERY_MS);
  }

  #hear(call, stream) {
    at("agent-audio").srcObject = stream;
    this.#agent.follow(this.#context, stream);
    this.#agent.onFirstSound = () => call.step("first_sound", "first sound from the agent");
  }

  async #hangUp() {
    try {
      await this.#call.hangUp();
    } catch (error) {
      this.#over(STATUS.ended);
      this.#complain(error);
    }
  }

  #over(words) {
    this.#silenceRing();
    clearInterval(this.#quality);
    this.#sound?.stop();
    this.#sound = null;
    this.#call = null;
    this.#you.release();
    this.#agent.release();
    at("handset").style.setProperty("--voice", "0");
    at("agent-audio").srcObject = null;
    this.#showKeypad(false);
    this.#enter("ended", words);
  }

  #silenceRing() {
    this.#stopRinging?.();
    this.#stopRinging = null;
  }

  #isBusy() {
    return this.#call !== null;
  }

  #enter(state, words = STATUS[state]) {
    this.#state = state;
    const connected = state === "connected";
    const incoming = state === "incoming";
    const busy = this.#isBusy() || state === "starting";
    at("handset").dataset.state = state;
    at("status").textContent = words;
    at("call-label").textContent = incoming ? "Answer" : busy ? "Hang up" : state === "ended" ? "Call again" : "Call";
    at("decline-control").hidden = !incoming;
    at("mute").closest(".control").hidden = at("keys").closest(".control").hidden = incoming;
    document.title = incoming ? `Incoming call · ${TITLE}` : TITLE;
    at("mute").disabled = at("keys").disabled = !connected;
    for (const key of at("keypad").children) key.disabled = !connected;
    at("copy").disabled = state === "idle";
    if (!connected) at("mute").ariaPressed = "false";
    if (state === "starting" || incoming) at("clock").hidden = true;
  }

  #mute(muted) {
    at("mute").ariaPressed = String(muted);
    this.#call.setMuted(muted);
  }

  #showKeypad(shown) {
    at("keypad").hidden = !shown;
    at("keys").ariaExpanded = String(shown);
  }

  #press(key) {
    if (this.#state !== "connected") return;
    if (!this.#call.press(key)) {
      this.#complain(new Error("The service's answer leaves out telephone-event, so there are no keys in this call."));
    }
  }

  #typed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || at("keypad").hidden) return;
    if (!KEYS.some(([key]) => key === event.key)) return;
    event.preventDefault();
    this.#press(event.key);
  }

  async #showQuality() {
    const quality = await this.#call?.quality();
    if (!quality) return;
    const round = quality.round_trip_ms === null ? "" : `round trip ${quality.round_trip_ms} ms · `;
    at("line").textContent = `${round}jitter ${quality.jitter_ms} ms · ${quality.lost} lost of ${quality.received + quality.lost}`;
  }

  #draw(now) {
    if (!this.#isBusy()) return;
    this.#you.draw(now);
    at("handset").style.setProperty("--voice", this.#agent.draw(now).toFixed(3));
    if (this.#state === "connected") at("clock").textContent = shownLength(performance.now() - this.#answeredAt);
    requestAnimationFrame((now) => this.#draw(now));
  }

  /** Words, with a way on where there is one. */
  #complain(error) {
    const words = document.createElement("p");
    words.textContent = error.message;
    at("alert").replaceChildren(words);
    at("alert").hidden = false;
    if (!(error instanceof NoSound)) return;
    const instead = document.createElement("button");
    instead.type = "button";
    instead.className = "plain";
    const takes = this.#state === "incoming";
    instead.textContent = takes ? "Answer with a test tone instead" : "Call with a test tone instead";
    instead.addEventListener("click", () => {
      at("sound").value = "tone";
      at("call").focus();
      void (takes ? this.#take() : this.#start());
    });
    at("alert").append(instead);
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#timeline.asJson());
      at("copy").textContent = "Copied";
    } catch {
      at("copy").textContent = "The browser refuses to copy";
    }
    setTimeout(() => (at("copy").textContent = "Copy as JSON"), 2000);
  }
}

function makeKeypad(onPress) {
  for (const [key, letters] of KEYS) {
    const button = document.createElement("button");
    button.type = "button";
    button.disabled = true;
    button.dataset.key = key;
    button.ariaLabel = KEY_NAMES[key] ?? key;
    button.dataset.letters = letters;
    button.append(key);
    button.addEventListener("click", () => onPress(key));
    at("keypad").append(button);
  }
}

async function showTarget() {
  try {
    const { agent, webhook, number } = await simulation();
    at("number").textContent = `+${number}`;
    at("target").textContent = agent === "echo" ? "Agent: built-in echo" : agent ? `Agent: ${agent}` : `Service: ${webhook}`;
    if (agent === "echo") {
      const command = document.createElement("code");
      command.textContent = "patchcord simulate --agent ws://…";
      at("hint").append("The agent is a built-in echo: it says back what you say. For your own, start ", command);
    }
  } catch {
    at("target").textContent = "The simulator does not answer";
  }
}

function shownLength(ms) {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

new PhonePage();
