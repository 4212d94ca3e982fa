"""What a caller heard: for how long a tone, and whether the line was whole."""

import wave
from pathlib import Path

import numpy as np

from processes import ROOT

BLOCK = 0.05


def seconds_of(report: dict, hertz: int) -> float:
    """Blocks of 50 ms in which this tone is nearly all of the sound."""
    with wave.open(str(ROOT / report["heard_file"])) as heard:
        rate, channels = heard.getframerate(), heard.getnchannels()
        samples = np.frombuffer(heard.readframes(heard.getnframes()), "<i2")[::channels].astype(float)
    size = int(rate * BLOCK)
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    wave_of_tone = np.exp(-2j * np.pi * hertz * np.arange(size) / rate)
    power = np.mean(blocks**2, axis=1)
    part = 2 * np.abs(np.mean(blocks * wave_of_tone, axis=1)) ** 2
    return float(np.sum((power > 100**2) & (part > 0.8 * power)) * BLOCK)


def objections(report: dict) -> list[str]:
    """What was wrong with the line to the caller. A service that got no processor for 200 ms skips frames, and the
    timestamps jump: then the machine is at fault, and no packet is missing."""
    return [objection for objection in report["objections"] if not objection.startswith("timestamp ")]
