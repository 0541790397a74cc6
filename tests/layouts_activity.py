"""Small recordings in the layouts of PPG-DaLiA, Pulse Transit Time PPG, and MIMIC-III's waveforms.

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


# PPG-DaLiA

def dalia(subject="S1", activities=((1, 24), (0, 8), (7, 32)), number=0) -> dict:
    "A person's dictionary; `activities` are pairs of code and seconds."
    seconds = sum(o[1] for o in activities)
    ecg, ppg = beating(number, seconds, 700, 64)
    rng = np.random.default_rng(number)
    chest = {"ECG": ecg.astype(np.float64)[:, None], "ACC": rng.normal(size=(700 * seconds, 3))}
    chest |= {o: rng.normal(size=(700 * seconds, 1)) for o in ("Resp", "EDA", "EMG", "Temp")}
    wrist = {"BVP": ppg.astype(np.float64)[:, None] * 50, "ACC": rng.normal(size=(32 * seconds, 3)),
             "EDA": rng.normal(size=(4 * seconds, 1)), "TEMP": rng.normal(size=(4 * seconds, 1))}
    codes = np.repeat([float(o[0]) for o in activities], [4 * o[1] for o in activities])
    return {"subject": subject, "signal": {"chest": chest, "wrist": wrist},
            "activity": codes[:, None], "label": 60 + rng.uniform(0, 40, (seconds - 8) // 2 + 1),
            "rpeaks": np.arange(350, 700 * seconds, 560),
            "questionnaire": {"WEIGHT": 78.0, "Gender": " m", "AGE": 34, "HEIGHT": 182.0, "SKIN": 3,
                              "SPORT": 6}}


def write_dalia(folder, data: dict):
    "A person's file, where the publisher has it."
    name = data["subject"]
    return write_pickle(Path(folder) / "PPG_FieldStudy" / name / f"{name}.pkl", data)


# Pulse Transit Time PPG

PTT = ("ecg", *(f"pleth_{i}" for i in range(1, 7)), "lc_1", "lc_2", "temp_1", "temp_2", "temp_3",
       "a_x", "a_y", "a_z", "g_x", "g_y", "g_z")


def ptt_samples(number=0, seconds=16, rate=500) -> np.ndarray:
    "All channels `(samples, 18)`; the six PPGs are one pulse of six heights."
    ecg, ppg = beating(number, seconds, rate, rate)
    x = np.random.default_rng(number).normal(size=(len(ecg), len(PTT)))
    x[:, 0] = ecg
    for i in range(1, 7): x[:, i] = 1000 + 100 * i * ppg
    return x.round(4)


def write_ptt(folder, name="s1_sit", *, told="<activity>: sit <age>: 28 <gender>: female", rate=500,
              values=None, channels=PTT):
    "A WFDB record; gives its samples."
    values = ptt_samples(rate=rate) if values is None else values
    units = ["mV" if o == "ecg" else "NU" for o in channels]
    write_wfdb(folder, name, list(zip(channels, units)), rate, values=values, fmt="32",
               comments=[told])
    names = sorted(o.stem for o in Path(folder).glob("*.hea"))
    (Path(folder) / "RECORDS").write_text("\n".join(names) + "\n")
    return values


def write_ptt_csv(folder, names=("s1_sit",), *, rate=500, clock=None, values=None):
    "The same as CSV; `clock` writes the time of sample `i`."
    inner = Path(folder) / "csv"
    inner.mkdir(parents=True, exist_ok=True)
    values = ptt_samples() if values is None else values
    clock = clock or (lambda i: f"2020-05-15 10:00:{i / rate:09.6f}")
    rows = [f"{clock(i)},{o[0]},0,{','.join(map(str, o[1:]))}"
            for i, o in enumerate(values.tolist())]
    head = f"time,ecg,peaks,{','.join(PTT[1:])}"
    for name in names: (inner / f"{name}.csv").write_text("\n".join([head, *rows]))
    people = [f"{o},{o.split('_')[1]},female,165,60,28,111" for o in names]
    (inner / "subjects_info.csv").write_text("\n".join(
        ["record,activity,gender,height,weight,age,bp_sys_start", *people]) + "\n")
    return values


# MIMIC-III waveforms

def write_stay(folder, name="p000020-2183-04-28-17-47", number="3544749", *, rate=125, person=0,
               segments=((("II", "PLETH"), 100), (None, 10), (("V", "RESP", "PLETH"), 70))):
    "A record of segments, each its channels and seconds (no channels: a gap), and its numerics."
    units = {"PLETH": "NU", "RESP": "pm"}
    inner = Path(folder) / name[:3] / name[:7]
    lines, made = [f"{number}_layout 0"], []
    every = dict.fromkeys(o for channels, _ in segments for o in channels or ())
    for i, (channels, seconds) in enumerate(segments, 1):
        lines.append(f"{number}_{i:04} {seconds * rate}" if channels else f"~ {seconds * rate}")
        if not channels: continue
        ecg, ppg = beating(i + person, seconds, rate, rate)
        x = np.stack([ppg if o == "PLETH" else ecg for o in channels], 1)
        named = [(o, units.get(o, "mV")) for o in channels]
        made.append(write_wfdb(inner, f"{number}_{i:04}", named, rate, values=x, fmt="80"))
    total = sum(o[1] for o in segments) * rate
    head = f"{name}/{len(lines)} {len(every)} {rate} {total} 17:47:22.168 28/04/2183"
    (inner / f"{name}.hea").write_text("\n".join([head, *lines]) + "\n")
    signals = [f"~ 0 1/{units.get(o, 'mV')} 0 0 0 0 0 {o}" for o in every]
    (inner / f"{number}_layout.hea").write_text("\n".join(
        [f"{number}_layout {len(every)} {rate} 0", *signals]) + "\n")
    (inner / f"{name}n.hea").write_text(f"{name}n/1 1 0.0166667 1\n{number}n 1\n")
    return made


def write_af(folder, rows):
    "The user's table; `rows` are record, start, end and af."
    (Path(folder) / "af_intervals.csv").write_text("\n".join(
        ["record,start,end,af", *(",".join(map(str, o)) for o in rows)]) + "\n")
