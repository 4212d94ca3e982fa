// How good a connection sounds: the browser's own counts between two looks, in the terms of `call.quality`.

/** Looks at a leg's statistics, each time since the last. */
export class LegQuality {
    #before = null;

    /** `{ lossInPercent, lossOutPercent, jitterMs, roundTripMs }`; null where nothing is known. */
    read(statistics) {
        const inbound = statistics.find(({ type }) => type === "inbound-rtp");
        const reported = statistics.find(({ type }) => type === "remote-inbound-rtp");
        const pair = statistics.find(
            ({ type, nominated, state }) => type === "candidate-pair" && nominated && state === "succeeded",
        );
        const before = this.#before ?? inbound;
        this.#before = inbound ?? null;
        const roundTrip = reported?.roundTripTime ?? pair?.currentRoundTripTime;
        return {
            lossInPercent: inbound ? lossBetween(before, inbound) : null,
            lossOutPercent: reported?.fractionLost === undefined ? null : 100 * reported.fractionLost,
            jitterMs: inbound?.jitter === undefined ? null : 1000 * inbound.jitter,
            roundTripMs: roundTrip === undefined ? null : 1000 * roundTrip,
        };
    }
}

/** `good`, `fair` or `poor`, or null before anything is known. The bounds are where people begin to notice. */
export function levelOf({ lossInPercent, lossOutPercent, jitterMs, roundTripMs }) {
    if (lossInPercent === null && roundTripMs === null) return null;
    const loss = Math.max(lossInPercent ?? 0, lossOutPercent ?? 0);
    if (loss > 8 || jitterMs > 80 || roundTripMs > 500) return "poor";
    if (loss > 2 || jitterMs > 30 || roundTripMs > 250) return "fair";
    return "good";
}

function lossBetween(before, now) {
    const lost = now.packetsLost - before.packetsLost;
    const received = now.packetsReceived - before.packetsReceived;
    return lost + received > 0 ? Math.max(0, (100 * lost) / (lost + received)) : 0;
}
