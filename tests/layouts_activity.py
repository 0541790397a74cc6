"""Small recordings in the layouts of the activity cohorts' publishers, and of MIMIC-III's waveforms.

ECG and PPG are the simulator's, so that hearts beat in them and pulses follow.
"""
import pickle
from functools import cache
from pathlib import Path

import numpy as np
from layouts import write_wfdb

from biossl.cohorts.simulated import Simulated


@cache
def beating(number: int, seconds: float, ecg_rate: float, ppg_rate: float):
    "ECG and PPG `(T,)` of a virtual patient."
    cohort = Simulated(subjects=number + 1, seconds=float(seconds), ecg_rate=float(ecg_rate),
                       ppg_rate=float(ppg_rate))
    sim = cohort.simulation(number)
    return sim.ecg[0, 0], sim.ppg[0, 0]


# Python 2's pickles

class _Python2(pickle._Pickler):
    "Writes as Python 2 did: all text as bytes, NumPy's functions under their names of then."
    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(raw) < 256
        self.write((b"U" + bytes([len(raw)]) if short else b"T" + len(raw).to_bytes(4, "little"))
                   + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global


def write_pickle(path, value):
    "A pickle as Python 2 wrote it."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file: _Python2(file, 2).dump(value)
    return path
