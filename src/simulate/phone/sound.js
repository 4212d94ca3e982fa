// The caller's sound: what goes out, which is the microphone, a tone or nothing, and the tone while it rings.

/** Sound that could not be had, with the remedy in words. */
export class NoSound extends Error {}

/** A stream with one audio track, and how to stop it. */
export async function openSound(kind, processing, context) {
  if (kind === "microphone") return microphone(processing);
  const destination = context.createMediaStreamDestination();
  const oscillator = context.createOscillator();
  const gain = context.createGain();
  oscillator.frequency.value = 440;
  gain.gain.value = kind === "tone" ? 0.3 : 0;
  oscillator.connect(gain).connect(destination);
  oscillator.start();
  return { stream: destination.stream, stop: () => oscillator.stop() };
}

async function microphone(processing) {
  if (!navigator.mediaDevices?.getUserMedia) {
    const port = location.port && `:${location.port}`;
    throw new NoSound(
      `The browser gives a microphone only to secure pages. Open this page on the simulator's machine as http://localhost${port}/, or behind HTTPS.`,
    );
  }
  const audio = { echoCancellation: processing, noiseSuppression: processing, autoGainControl: processing };
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    return { stream, stop: () => stream.getTracks().forEach((track) => track.stop()) };
  } catch (error) {
    throw new NoSound(remedy(error));
  }
}

function remedy(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The microphone was refused. Allow it for this page, with the icon beside the address or in the system's privacy settings, and call again.";
    case "NotFoundError":
      return "No microphone was found. Connect one and call again.";
    case "NotReadableError":
      return "The microphone cannot be opened; another program may be using it. Close that program and call again.";
    default:
      return `The microphone cannot be opened (${error.name}: ${error.message}).`;
  }
}

/** What a caller hears while it rings: 440 and 480 Hz, two seconds of six, quietly. Returns how to stop it. */
export function ringback(context) {
  return rings(context, { frequencies: [440, 480], level: 0.025, first: 0.6, length: 2, every: 6 });
}

/** What a phone plays that is called. Returns how to stop it. */
export function ringtone(context) {
  return rings(context, { frequencies: [659, 784], level: 0.05, first: 0.1, length: 1, every: 3 });
}

function rings(context, { frequencies, level, first, length, every }) {
  const gain = context.createGain();
  gain.gain.value = 0;
  const oscillators = frequencies.map((frequency) => {
    const oscillator = context.createOscillator();
    oscillator.frequency.value = frequency;
    oscillator.connect(gain);
    oscillator.start();
    return oscillator;
  });
  // Longer than any phone rings. A caller hears a first moment of silence: most agents answer before anybody would hear
  // it ring.
  for (let at = first; at < 90; at += every) {
    gain.gain.setTargetAtTime(level, context.currentTime + at, 0.02);
    gain.gain.setTargetAtTime(0, context.currentTime + at + length, 0.02);
  }
  gain.connect(context.destination);
  return () => {
    oscillators.forEach((oscillator) => oscillator.stop());
    gain.disconnect();
  };
}
