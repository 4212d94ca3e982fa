// A recording as a picture: the caller above the line, the agent below it, as the file has them left and right.

/** One hour at 8 kHz is 230 MB of samples; at the file's own rate it would be 1.4 GB. */
const DECODED_AT_HZ = 8_000;
const BAR_PX = 3;

/** The loudest sample of each of `count` slices, for each channel; in proportion to the loudest of all. */
export async function peaksOf(bytes, count) {
    const decoder = new OfflineAudioContext(2, 1, DECODED_AT_HZ);
    const sound = await decoder.decodeAudioData(bytes);
    const channels = [0, sound.numberOfChannels - 1].map((index) => peaksOfChannel(sound.getChannelData(index), count));
    const loudest = Math.max(...channels.flat(), 0.01);
    return channels.map((peaks) => peaks.map((peak) => peak / loudest));
}

/** Draws the peaks; what was played, up to `progress` from 0 to 1, is stronger. The colours are the style sheet's. */
export function drawWaveform(canvas, peaks, progress) {
    const style = getComputedStyle(canvas);
    const scale = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    Object.assign(canvas, { width: width * scale, height: height * scale });
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const colours = [style.getPropertyValue("--caller"), style.getPropertyValue("--agent")];
    const step = width / peaks[0].length;
    for (const [channel, values] of peaks.entries()) {
        context.fillStyle = colours[channel];
        for (const [index, value] of values.entries()) {
            const length = Math.max(1, value * (height / 2 - 2));
            context.globalAlpha = (index + 0.5) / values.length <= progress ? 1 : 0.4;
            context.fillRect(
                index * step,
                channel === 0 ? height / 2 - length : height / 2 + 1,
                Math.max(1, step - 1),
                length,
            );
        }
    }
}

/** How many bars fit. */
export function barsIn(width) {
    return Math.max(40, Math.floor(width / BAR_PX));
}

function peaksOfChannel(samples, count) {
    const size = Math.max(1, Math.floor(samples.length / count));
    return Array.from({ length: count }, (_, slice) => {
        let peak = 0;
        const end = Math.min(samples.length, (slice + 1) * size);
        for (let at = slice * size; at < end; at++) peak = Math.max(peak, Math.abs(samples[at]));
        return peak;
    });
}
