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


LUDB_COLUMNS = ("ID,Sex,Age,Rhythms,Electric axis of the heart,Conduction abnormalities,"
                "Extrasystolies,Hypertrophies,Cardiac pacing,Ischemia,"
                "Non-specific repolarization abnormalities,Other states").split(",")
AXIS = "Electric axis of the heart"
MARKS = ("(p)(N)(t)", (10, 12, 14, 20, 22, 25, 40, 50, 60))  # symbols, sample numbers
_CODES = {"N": 1, "V": 5, "p": 24, "t": 27, "(": 39, ")": 40}
_SKIP = 59


def write_marks(path: Path, symbols, at) -> None:
    "Annotations in PhysioNet's 16-bit format: six bits what, ten bits how much later."
    words, last = [], 0
    for symbol, sample in zip(symbols, at):
        later = sample - last
        if later > 1023: words += [_SKIP << 10, later >> 16, later & 0xFFFF]
        words.append(_CODES[symbol] << 10 | (0 if later > 1023 else later))
        last = sample
    path.write_bytes(struct.pack(f"<{len(words) + 1}H", *words, 0))


def ludb(folder: Path, numbers=(1, 2), marks=MARKS, length=5000, **changes) -> Path:
    "LUDB with these records, each with other gains, and the same marks on every lead."
    row = {"Sex": "F\n", "Age": "51\n", "Rhythms": "Atrial fibrillation\nAberrant conduction",
           "Hypertrophies": "Left ventricular overload\nLeft ventricular hypertrophy",
           AXIS: f"{AXIS}: vertical"} | changes
    for n in numbers:
        write_record(folder / f"data/{n}", counts(n, length), leads=LOWER, zero="0 0",
                     gain=f"{1200 + n}(6)/mV", comments=["#<age>: 51", "#<sex>: F"])
        for lead in LOWER: write_marks(folder / f"data/{n}.{lead}", *marks)
    write_rows(folder / "ludb.csv", LUDB_COLUMNS, [dict(ID=n, **row) for n in numbers])
    (folder / "RECORDS").write_text("".join(f"data/{n}\n" for n in numbers))
    return folder


CONDITIONS = """\ufeffAcronymName,FullName,Snomed_CT
APB,atrial premature beats\t,284470004
LBBB,left bundle branch block,164909002
LFBBB,left front bundle branch block,164909002
"""


def chapman_ningbo(folder: Path) -> Path:
    "The table of conditions; records are added by `challenge_record`."
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ConditionNames_SNOMED-CT.csv").write_text(CONDITIONS, encoding="utf-8")
    return folder


def filtered_row(number: int, **changes) -> dict:
    "One row of the filtered set's `labels.csv` with these `changes`."
    row = ptb_xl_row(number)
    lists = dict(super_class="['CD']", sub_class="['CRBBB', 'AVB']", form="['NT']", rhythm="['SR']")
    kept = {k: row[k] for k in ("ecg_id", "patient_id", "strat_fold", "filename_lr")}
    return kept | lists | changes


def ptb_xl_filtered(folder: Path, rows) -> Path:
    "The filtered set: its one table, and records at 100 Hz in normalised units."
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "labels.csv", list(rows[0]), rows)
    for row in rows:
        write_record(folder / row["filename_lr"], counts(row["ecg_id"]), 100, gain="200.0(0)/NU")
    return folder


MEMBERS = ("ptb_xl", "ptb_xl_filtered", "challenge_2020", "chapman_ningbo")


def open_12lead(folder: Path, length: int = 600) -> Path:
    """The four cohorts of `open_12lead` side by side, a few recordings each.

    PTB-XL 1, 2 and 3 are of two patients; 2 is in the filtered set, too, whose 1001 and 1002 are of
    patients that PTB-XL's second table and nobody else knows; HR00003 is PTB-XL 3, E00002 equals
    E00001, JS00002 has no scored code, JS00003 a sample missing, E00003 no lead V6.
    """
    rows = [ptb_xl_row(1), ptb_xl_row(2, patient_id="9001.0", heart_axis="LAD"), ptb_xl_row(3)]
    ptb_xl(folder / "ptb_xl", rows)
    for o in rows: write_record(folder / "ptb_xl" / o["filename_hr"], counts(o["ecg_id"], length))
    write_rows(folder / "ptb_xl/ptbxl_database_metadata.csv", PTB_XL_COLUMNS, [
        *rows, ptb_xl_row(1001, patient_id="9003.0", scp_codes="{'1AVB': 0.0}", heart_axis="RAD",
                          strat_fold="7", age="300.0", sex="1")])
    ptb_xl_filtered(folder / "ptb_xl_filtered", [
        filtered_row(2), filtered_row(1001, strat_fold="7"), filtered_row(1002, strat_fold="8")])
    georgia, ptb = (folder / f"challenge_2020/training/{o}/g1" for o in ("georgia", "ptb-xl"))
    wave = challenge_record(georgia, "E00001", wave=counts(11, length), dx="426783006,251146004")
    challenge_record(georgia, "E00002", wave=wave)
    challenge_record(georgia, "E00003", wave=counts(12, length), leads=[*MIXED[:11], "X"])
    challenge_record(ptb, "HR00003", wave=counts(13, length))
    chapman_ningbo(folder / "chapman_ningbo")
    theirs = folder / "chapman_ningbo/WFDBRecords/01/010"
    challenge_record(theirs, "JS00001", wave=counts(21, length))
    challenge_record(theirs, "JS00002", wave=counts(22, length), dx="164865005")
    gap = counts(23, length)
    gap[7, 100] = -32768
    challenge_record(theirs, "JS00003", wave=gap)
    return folder
