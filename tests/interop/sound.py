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


def write_wav(samples: numpy.ndarray, path: Path) -> None:
    """Mono, 16 bit, at RATE."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())


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
    energy_spoken = numpy.sum(spoken**2)
    # A window that is almost silent would divide by almost nothing.
    scores = products / numpy.sqrt(energy_spoken * numpy.maximum(energies, 0.01 * energy_spoken))
    best = int(numpy.argmax(scores))
    return float(scores[best]), best


def loudness(samples: numpy.ndarray) -> float:
    return float(numpy.sqrt(numpy.sum(samples**2)))


@dataclass
class Likeness:
    """How much of what was spoken is in what was heard."""

    correlation: float
    """Mean over tenths of a second, weighted by loudness, 0 to 1."""
    starts_at: int
    """The sample of what was heard where it begins."""
    moved_ms: float
    """How much later the end is than the earliest piece: 20 ms for each frame that the agent's sound was too late for."""


def compare(spoken: numpy.ndarray, heard: numpy.ndarray) -> Likeness:
    """Seeks each tenth of a second near the place of the one before, because a late frame moves all that follows."""
    spoken, heard = telephone_band(spoken), telephone_band(heard)
    step, near, far = RATE // 10, RATE // 20, RATE // 4
    loudest = max(loudness(spoken[begin:begin + step]) for begin in range(0, len(spoken) - step + 1, step))
    place = find(spoken, heard)[1]
    earliest: int | None = None
    correlation = weight = 0.0
    for begin in range(0, len(spoken) - step + 1, step):
        piece = spoken[begin:begin + step]
        # What the whole is most like may be its late part, so the first pieces may be well before it.
        around = max(place + begin - (far if earliest is None else near), 0)
        score, found = find(piece, heard[around:place + begin + step + far])
        correlation += loudness(piece) * score
        weight += loudness(piece)
        # Silence is alike everywhere, and what is hardly more may be by chance.
        if score > 0.8 and loudness(piece) > loudest / 20:
            place = around + found - begin
            earliest = place if earliest is None else min(earliest, place)
    starts_at = place if earliest is None else earliest
    return Likeness(correlation / weight, int(starts_at), (place - starts_at) * 1000 / RATE)
