// The few lines of SDP that this page reads: fragments for trickle ICE and ICE restarts (RFC 8840).

const CREDENTIALS = ["a=ice-ufrag:", "a=ice-pwd:"];
const CANDIDATES = ["a=candidate:", "a=end-of-candidates"];

/** What a local description says of ICE, as `application/trickle-ice-sdpfrag`, with its candidates or those given. */
export function iceFragment(sdp, candidates = linesOf(sdp, "a=candidate:"), isComplete = false) {
    const lines = [
        ...linesOf(sdp, "a=ice-ufrag:").slice(0, 1),
        ...linesOf(sdp, "a=ice-pwd:").slice(0, 1),
        ...linesOf(sdp, "m=").slice(0, 1),
        ...linesOf(sdp, "a=mid:").slice(0, 1),
        ...candidates,
        ...(isComplete ? ["a=end-of-candidates"] : []),
    ];
    return lines.map((line) => `${line}\r\n`).join("");
}

/** The remote answer after an ICE restart: with a fragment's credentials, and its candidates if it has any. */
export function withIceOf(sdp, fragment) {
    const hasCandidates = linesOf(fragment, "a=candidate:").length > 0;
    const replaced = hasCandidates ? [...CREDENTIALS, ...CANDIDATES] : CREDENTIALS;
    const isReplaced = (line) => replaced.some((prefix) => line.startsWith(prefix));
    const kept = splitLines(sdp).filter((line) => !isReplaced(line));
    // The last lines belong to the only media section.
    return [...kept, ...splitLines(fragment).filter(isReplaced)].map((line) => `${line}\r\n`).join("");
}

function linesOf(sdp, prefix) {
    return splitLines(sdp).filter((line) => line.startsWith(prefix));
}

function splitLines(text) {
    return text.split(/\r?\n/).filter(Boolean);
}
