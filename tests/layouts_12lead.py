"""Small folders in the layouts that the publishers of twelve-lead cohorts use, written by hand."""
import csv
import struct
from pathlib import Path

import numpy as np

UPPER = "I II III AVR AVL AVF V1 V2 V3 V4 V5 V6".split()
MIXED = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
LOWER = [o.lower() for o in UPPER]
STYLES = {  # the three ways in which a challenge header has been written
    "2020": dict(fmt="16+24", gain="1000/mV", comment="#{}: {}"),
    "2020-mv": dict(fmt="16+24", gain="1000/mv", comment="#{}: {}"),
    "later": dict(fmt="16x1+24", gain="1000.0(0)/mV", comment="# {}: {}")}
PTB_XL_COLUMNS = ("ecg_id patient_id age sex report scp_codes heart_axis strat_fold filename_lr "
                  "filename_hr").split()
STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class
NORM,normal ECG,1.0,,,NORM
IMI,inferior infarction,1.0,,,MI
NDT,non-diagnostic T abnormalities,1.0,1.0,,STTC
CRBBB,complete right bundle branch block,1.0,,,CD
LVH,left ventricular hypertrophy,1.0,,,HYP
AFIB,atrial fibrillation,,,1.0,
SR,sinus rhythm,,,1.0,
"""


def counts(seed: int = 0, length: int = 100) -> np.ndarray:
    "Twelve leads of whole microvolts `(12, T)` that obey Einthoven's law."
    wave = np.random.default_rng(seed).integers(-900, 900, (12, length)).astype(np.int16)
    wave[2] = wave[1] - wave[0]
    return wave


def write_record(path: Path, wave, rate=500, leads=UPPER, fmt="16", gain="1000.0(0)/mV",
                 comments=(), suffix=".dat", zero="16 0") -> None:
    "A header and its samples, `path` without suffix; a format `+24` has a MATLAB v4 head."
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.asarray(wave, "<i2")
    head = struct.pack("<5i4s", 30, *wave.shape, 0, 4, b"val\0") if "+24" in fmt else b""
    path.with_name(path.name + suffix).write_bytes(head + wave.T.tobytes())
    lines = [f"{path.name} {len(wave)} {rate} {wave.shape[1]}"]
    for row, lead in zip(wave, leads):
        check = (int(row.astype(int).sum()) + 32768) % 65536 - 32768
        lines.append(f"{path.name}{suffix} {fmt} {gain} {zero} {row[0]} {check} 0 {lead}")
    path.with_name(path.name + ".hea").write_text("\n".join([*lines, *comments]) + "\n")


def write_rows(path: Path, columns, rows, encoding="utf-8") -> None:
    "A CSV table; a column that a row lacks stays empty."
    with open(path, "w", newline="", encoding=encoding) as f:
        table = csv.DictWriter(f, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def ptb_xl_row(number: int, **changes) -> dict:
    "One row of `ptbxl_database.csv` with these `changes`."
    group = f"{number // 1000 * 1000:05d}/{number:05d}"
    return dict(ecg_id=number, patient_id=f"{9000 + number}.0", age="56.0", sex="0",
                report="sinusrhythmus", scp_codes="{'NORM': 100.0, 'SR': 0.0}", heart_axis="",
                strat_fold="3", filename_lr=f"records100/{group}_lr",
                filename_hr=f"records500/{group}_hr") | changes


def ptb_xl(folder: Path, rows, encoding="utf-8") -> Path:
    "PTB-XL's two tables, and the recordings of `rows` at both rates, the number as seed."
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "ptbxl_database.csv", PTB_XL_COLUMNS, rows, encoding)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    for row in rows:
        if ".." in row["filename_lr"]: continue
        for name, rate in ((row["filename_lr"], 100), (row["filename_hr"], 500)):
            write_record(folder / name, counts(row["ecg_id"]), rate)
    return folder


def challenge_record(folder: Path, name: str, style="2020", age="74", sex="Male", dx="59118001",
                     rate=500, **changes) -> np.ndarray:
    "A record as the challenges write it; `changes` go to `write_record`. Gives the counts."
    how = dict(STYLES[style])
    comment = how.pop("comment")
    fields = (("Age", age), ("Sex", sex), ("Dx", dx), ("Rx", "Unknown"), ("Hx", "Unknown"))
    how = dict(wave=counts(sum(name.encode())), rate=rate, leads=MIXED, suffix=".mat", **how,
               comments=[comment.format(*o) for o in fields]) | changes
    write_record(folder / name, **how)
    return how["wave"]
