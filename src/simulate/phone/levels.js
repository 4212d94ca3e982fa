// How loud a stream is, drawn as often as the screen is.

/** Decibels below full scale that show as nothing. */
const QUIETEST_DB = -55;
/** Screen readers get a new value this often. */
const SPOKEN_EVERY_MS = 500;

/** A meter in the page that follows one stream at a time. */
export class Level {
  #element;
  #bar;
  #analyser = null;
  #source = null;
  #samples = null;
  #shown = 0;
  #spokenAt = 0;
  onFirstSound = null;

  constructor(element) {
    this.#element = element;
    this.#bar = element.firstElementChild;
  }

  follow(context, stream) {
    this.release();
    this.#source = context.createMediaStreamSource(stream);
    this.#analyser = context.createAnalyser();
    this.#analyser.fftSize = 1024;
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#source.connect(this.#analyser);
  }

  release() {
    this.#source?.disconnect();
    this.#source = null;
    this.#analyser = null;
    this.#show(0);
    this.#element.setAttribute("aria-valuenow", "0");
  }

  /** Draws; returns the level from 0 to 1. */
  draw(now) {
    if (!this.#analyser) return 0;
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let energy = 0;
    for (const sample of this.#samples) energy += sample * sample;
    const db = 10 * Math.log10(energy / this.#samples.length + 1e-12);
    const level = Math.min(1, Math.max(0, 1 - db / QUIETEST_DB));
    if (level > 0.1 && this.onFirstSound) {
      this.onFirstSound();
      this.onFirstSound = null;
    }
    // Falls slowly, as needles do.
    this.#show(Math.max(level, this.#shown * 0.9));
    if (now - this.#spokenAt > SPOKEN_EVERY_MS) {
      this.#spokenAt = now;
      this.#element.setAttribute("aria-valuenow", String(Math.round(this.#shown * 100)));
    }
    return this.#shown;
  }

  #show(level) {
    this.#shown = level;
    this.#bar.style.setProperty("--level", level.toFixed(3));
  }
}
