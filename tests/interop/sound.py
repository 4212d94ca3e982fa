"""Speech as arrays of samples, and how alike two of them are."""

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy

RATE = 48_000
"""Samples a second of everything here; the rate of Opus on the wire."""


def read_wav(path: Path) -> numpy.ndarray:
    """A mono 16-bit file at RATE, as int16."""
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError(f"{path} is not mono, 16 bit")
        samples = numpy.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return resample(samples, file.getframerate())


def resample(samples: numpy.ndarray, rate: int) -> numpy.ndarray:
    """From `rate` to RATE through the spectrum, which adds nothing above the old band."""
    if rate == RATE:
        return samples
    length = len(samples) * RATE // rate
    longer = numpy.fft.irfft(numpy.fft.rfft(samples), length) * (length / len(samples))
    return numpy.clip(numpy.rint(longer), -32768, 32767).astype(numpy.int16)


def telephone_band(samples: numpy.ndarray) -> numpy.ndarray:
    """300 to 3400 Hz. Below it, Opus for voice turns the phase on purpose: twice coded, a deep voice as a whole has
    a correlation of 0.7 with itself, and 0.95 in this band."""
    spectrum = numpy.fft.rfft(samples.astype(numpy.float64))
    frequencies = numpy.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum[(frequencies < 300) | (frequencies > 3400)] = 0
    return numpy.fft.irfft(spectrum, len(samples))


def find(spoken: numpy.ndarray, heard: numpy.ndarray) -> tuple[float, int]:
    """The best normalised cross-correlation, 0 to 1, and the sample of `heard` where `spoken` begins there."""
    if len(heard) < len(spoken):
        return 0.0, 0
    size = 1 << (len(heard) + len(spoken)).bit_length()
    spectrum = numpy.fft.rfft(heard, size) * numpy.conj(numpy.fft.rfft(spoken, size))
    places = len(heard) - len(spoken) + 1
    products = numpy.fft.irfft(spectrum, size)[:places]
    energy = numpy.concatenate(([0.0], numpy.cumsum(heard**2)))
    energies = energy[len(spoken):] - energy[:places]
    loudness = numpy.sum(spoken**2)
    # A window that is almost silent would divide by almost nothing.
    scores = products / numpy.sqrt(loudness * numpy.maximum(energies, 0.01 * loudness))
    best = int(numpy.argmax(scores))
    return float(scores[best]), best


@dataclass
class Likeness:
    """How much of what was spoken is in what was heard."""

    correlation: float
    """Mean over half seconds, weighted by energy, 0 to 1."""
    starts_at: int
    """The sample of what was heard where it begins."""
    moved_ms: float
    """How much later the end is than the beginning: 20 ms for each frame that the agent's sound came too late for."""


def compare(spoken: numpy.ndarray, heard: numpy.ndarray) -> Likeness:
    """Seeks each half second near the place of the one before, because a late frame moves all that follows."""
    spoken, heard = telephone_band(spoken), telephone_band(heard)
    step, reach = RATE // 2, RATE // 10
    starts_at = find(spoken, heard)[1]
    place = None
    correlation = weight = first = 0.0
    for begin in range(0, len(spoken) - step + 1, step):
        piece = spoken[begin:begin + step]
        around = max((starts_at if place is None else place) + begin - (2 if place is None else 1) * reach, 0)
        score, found = find(piece, heard[around:around + step + (4 if place is None else 2) * reach])
        energy = numpy.sum(piece**2)
        correlation += energy * score
        weight += energy
        place = around + found - begin
        first = place if begin == 0 else first
    return Likeness(correlation / weight, int(first), (place - first) * 1000 / RATE)
