// The page's one AudioContext: meters, ring and waveforms share it. Browsers start it only after a click or a key.

let context = null;

export function audioContext() {
    context ??= new AudioContext({ latencyHint: "interactive" });
    return context;
}

/** Called from a click or a key press, so that the ring can be heard later. */
export function allowSound() {
    return audioContext()
        .resume()
        .catch(() => {});
}
