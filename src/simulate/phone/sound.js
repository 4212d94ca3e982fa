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
  const gain = context.createGain();
  gain.gain.value = 0;
  const oscillators = [440, 480].map((frequency) => {
    const oscillator = context.createOscillator();
    oscillator.frequency.value = frequency;
    oscillator.connect(gain);
    oscillator.start();
    return oscillator;
  });
  // A first moment of silence: most agents answer before anybody would hear it ring.
  for (let ring = 0; ring < 12; ring++) {
    const at = context.currentTime + 0.6 + ring * 6;
    gain.gain.setTargetAtTime(0.025, at, 0.02);
    gain.gain.setTargetAtTime(0, at + 2, 0.02);
  }
  gain.connect(context.destination);
  return () => {
    oscillators.forEach((oscillator) => oscillator.stop());
    gain.disconnect();
  };
}
