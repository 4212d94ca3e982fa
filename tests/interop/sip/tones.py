"""One tone per person: written as a WAV file, and found again in what was heard."""

import re
import wave
from pathlib import Path

import av
import numpy as np

# The steps in which a recording is looked at, and their blocks, in seconds.
STEP = 0.5
BLOCK = 0.05


def write_tone(file: Path, hertz: int, rate: int, channels: int = 1) -> Path:
    """A minute of somebody's voice."""
    samples = 11_000 * np.sin(2 * np.pi * hertz * np.arange(60 * rate) / rate)
    with wave.open(str(file), "wb") as tone:
        tone.setnchannels(channels)
        tone.setsampwidth(2)
        tone.setframerate(rate)
        tone.writeframes(np.repeat(samples.round().astype("<i2"), channels).tobytes())
    return file


def course(file: Path, voices: dict[str, int]) -> str:
    """Who is heard one after the other in a WAV file, by its first channel: the sign of the one tone, `+` for several, `-`
    for other sound, `_` for silence. What lasts for a single step is left out: there one changes into the other."""
    with wave.open(str(file)) as heard:
        rate, channels = heard.getframerate(), heard.getnchannels()
        samples = np.frombuffer(heard.readframes(heard.getnframes()), "<i2")[::channels].astype(float)
    return _course(samples, rate, voices)


def courses(recording: Path, voices: dict[str, int]) -> list[str]:
    """The same for each channel of a recording, which is Opus."""
    with av.open(str(recording)) as opened:
        frames = [frame.to_ndarray() for frame in opened.decode(audio=0)]
    samples = np.concatenate(frames, axis=1) * 32_767.0
    return [_course(channel, 48_000, voices).strip("_") for channel in samples]


def _course(samples: np.ndarray, rate: int, voices: dict[str, int]) -> str:
    length, block = int(rate * STEP), int(rate * BLOCK)
    steps = [samples[at : at + length] for at in range(0, len(samples) - length + 1, length)]
    signs = "".join(_sign([step[at : at + block] for at in range(0, length, block)], rate, voices) for step in steps)
    return re.sub(r"(.)\1+", r"\1", "".join(found[0] for found in re.finditer(r"(.)\1+", signs)))


def _sign(blocks: list[np.ndarray], rate: int, voices: dict[str, int]) -> str:
    """What most of the blocks are: a busy machine leaves gaps, and beside each gap a block that is neither."""
    signs = [sign for sign in (_sign_of_block(block, rate, voices) for block in blocks) if sign != "_"]
    return max(sorted(set(signs)), key=signs.count, default="_")


def _sign_of_block(samples: np.ndarray, rate: int, voices: dict[str, int]) -> str:
    power = np.mean(samples**2)
    if power < 100**2:
        return "_"
    times = np.arange(len(samples)) / rate
    part = lambda hertz: 2 * abs(np.mean(samples * np.exp(-2j * np.pi * hertz * times))) ** 2 / power
    shares = {sign: part(hertz) for sign, hertz in voices.items()}
    loud = [sign for sign, share in shares.items() if share > 0.1]
    if len(loud) == 1 and shares[loud[0]] > 0.9:
        return loud[0]
    return "+" if len(loud) > 1 else "-"
