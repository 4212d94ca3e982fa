"""Judges what `recordings.rs` recorded: PESQ (wideband) and STOI of each sentence, a table of medians, and the limits.

The exit code is 1 when a limit is missed.
"""

import json
import sys
from multiprocessing import Pool
from pathlib import Path
from statistics import median

import numpy as np
from pesq import pesq
from pystoi import stoi
from scipy.io import wavfile
from scipy.signal import correlate

RATE = 16_000
# Silence kept around a sentence, in which PESQ finds its beginning and end.
MARGIN = RATE * 3 // 10
# A sentence is looked for so far around the place that the whole recording says: late frames move it.
ASTRAY = RATE // 5
# A call without loss is nothing but codec: what it may cost in PESQ.
WORST_DIFFERENCE = 0.1
# With every tenth packet lost, speech must still be easy to follow; without in-band FEC it is about 1.7.
LEAST_AT_TEN_PERCENT = 2.4


def main(folder: Path) -> int:
    plan = json.loads((folder / "plan.json").read_text())
    reference = read(folder / plan["reference"])
    jobs = [
        (reference, plan["sentences"], read(folder / recording[kind]))
        for recording in plan["recordings"]
        for kind in ("call", "codec")
    ]
    with Pool() as pool:
        scores = iter(pool.starmap(judge, jobs))
    rows = {}
    for recording in plan["recordings"]:
        row = rows.setdefault((recording["direction"], recording["loss_percent"]), {"call": [], "codec": []})
        row["call"] += next(scores)
        row["codec"] += next(scores)
    return show(rows, plan["fec_share"])


def read(file: Path) -> np.ndarray:
    rate, samples = wavfile.read(file)
    assert rate == RATE, file
    return samples


def judge(reference: np.ndarray, sentences: list, heard: np.ndarray) -> list:
    """PESQ and STOI of each sentence, as found in what was heard."""
    offset = offset_of(reference, heard)
    return [judge_sentence(reference, begin - MARGIN, end + MARGIN, heard, offset) for begin, end in sentences]


def judge_sentence(reference: np.ndarray, begin: int, end: int, heard: np.ndarray, offset: int) -> tuple:
    said = reference[begin:end]
    near = cut(heard, begin + offset - ASTRAY, end + offset + ASTRAY)
    start = offset_of(said, near)
    found = cut(near, start, start + len(said))
    return pesq(RATE, said, found, "wb"), float(stoi(said, found, RATE))


def offset_of(said: np.ndarray, heard: np.ndarray) -> int:
    """The sample of `heard` at which `said` begins: the highest point of their correlation."""
    likeness = correlate(heard.astype(float), said.astype(float), method="fft")
    return int(np.argmax(likeness)) - len(said) + 1


def cut(samples: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The samples from `begin` to `end`; what lies outside is silence."""
    inside = samples[max(begin, 0) : max(end, 0)]
    before = max(min(-begin, end - begin), 0)
    return np.pad(inside, (before, end - begin - before - len(inside)))


def show(rows: dict, fec_share: dict) -> int:
    print(f"{'direction':16}{'loss':>6}{'PESQ call':>11}{'codec alone':>13}{'difference':>12}{'STOI':>7}  limit")
    missed = 0
    for (direction, loss), row in sorted(rows.items()):
        call, codec = (median(score for score, _ in row[kind]) for kind in ("call", "codec"))
        clear = median(score for _, score in row["call"])
        limit = limit_of(loss, call, codec)
        missed += limit.endswith("missed")
        print(f"{direction:16}{loss:>4} %{call:>11.2f}{codec:>13.2f}{call - codec:>12.2f}{clear:>7.3f}  {limit}")
    shares = ", ".join(f"{share:.0%} {direction}" for direction, share in fec_share.items())
    sentences = len(next(iter(rows.values()))["call"])
    print(f"Medians over {sentences} sentences and more. Packets with in-band FEC: {shares}.")
    print("The codec alone loses other packets of the same share; both conceal and repair the same way.")
    return 1 if missed else 0


def limit_of(loss: int, call: float, codec: float) -> str:
    if loss == 0:
        return told(f"-{WORST_DIFFERENCE} of codec", call >= codec - WORST_DIFFERENCE)
    if loss == 10:
        return told(f">= {LEAST_AT_TEN_PERCENT}", call >= LEAST_AT_TEN_PERCENT)
    return ""


def told(limit: str, kept: bool) -> str:
    return f"{limit:14} {'ok' if kept else 'missed'}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
