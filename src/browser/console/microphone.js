// The microphone: opened for a call and closed after it, so that the browser's red dot says the truth.

import { Problem } from "./api.js";

const SOUND = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };

/** The names of getUserMedia's errors (Media Capture and Streams §10.2), and ours. */
const CODES = {
    NotAllowedError: "microphone_refused",
    SecurityError: "microphone_refused",
    NotFoundError: "microphone_missing",
    OverconstrainedError: "microphone_missing",
    NotReadableError: "microphone_busy",
    AbortError: "microphone_busy",
};

/** Whether this page may ask for a microphone at all: HTTPS, or localhost. */
export function isSecure() {
    return window.isSecureContext && navigator.mediaDevices !== undefined;
}

/** A stream with one track. Throws a Problem whose code has words. */
export async function openMicrophone() {
    if (!isSecure()) throw refused("insecure_context");
    try {
        return await navigator.mediaDevices.getUserMedia({ audio: SOUND });
    } catch (error) {
        throw refused(CODES[error.name] ?? "microphone_busy", error.message);
    }
}

/** Whether the browser has the reader's permission already. One that does not say so may have it all the same. */
export async function isMicrophoneAllowed() {
    const permission = await navigator.permissions?.query({ name: "microphone" }).catch(() => null);
    return permission?.state === "granted";
}

/** Asks for the permission ahead of the first call, when there is time to give it. */
export async function tryMicrophone() {
    closeMicrophone(await openMicrophone());
}

export function closeMicrophone(stream) {
    for (const track of stream?.getTracks() ?? []) track.stop();
}

function refused(code, detail = "") {
    return new Problem({ status: 0, code, detail });
}
