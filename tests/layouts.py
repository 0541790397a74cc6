"""Small recordings in the layouts of the ECG and PPG publishers, so that no test needs theirs."""
from pathlib import Path

import numpy as np


def waves(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    "Noise `(samples, channels)` between -1 and 1."
    return np.random.default_rng(seed).uniform(-1, 1, (samples, channels))


def write_wfdb(folder, name, channels, rate, *, samples=500, comments=(), fmt="16", seed=0,
               values=None):
    "A record whose `channels` are pairs of name and unit; gives the samples `(samples, channels)`."
    import wfdb
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = waves(len(channels), samples, seed) if values is None else values
    wfdb.wrsamp(name, fs=rate, units=[o[1] for o in channels], sig_name=[o[0] for o in channels],
                p_signal=values, fmt=[fmt] * len(channels), comments=list(comments),
                write_dir=str(folder))
    return values


def edit(path, old: str, new: str) -> None:
    "Replace `old`, which must be there, in a text file."
    text = Path(path).read_text()
    assert old in text, f"{old!r} is not in {path}"
    Path(path).write_text(text.replace(old, new))


def write_mimic_perform_af(folder, subjects=("p000001", "p000002"), resp=(True, False)):
    "Two recordings of each class; `subjects` and `resp` of the first and second of each."
    for group in ("af", "non_af"):
        inner = Path(folder) / f"mimic_perform_{group}_wfdb"
        names = [f"mimic_perform_{group}_{i:03}" for i in (1, 2)]
        for i, name in enumerate(names):
            channels = [("PPG, Fingertip PPG recorded using bedside monitor", "NU"),
                        ("ECG, ECG recorded using bedside monitor, lead II", "mV")]
            if resp[i]: channels.append(("resp, Impedance pneumography at the chest", "pm"))
            comment = f"<Original Subject ID>: {subjects[i]} <Original File>: 1 <subject group>: "
            write_wfdb(inner, name, channels, 125, comments=[comment], seed=i)
        (inner / "RECORDS").write_text("\n".join(names) + "\n")
    return Path(folder)


def write_bidmc(folder, number, subject, *, columns=("RESP", "PLETH", "V", "AVR", "II"), seconds=40,
                age="88", sex="M", numerics=None, breaths=None, start=0):
    "One recording; `numerics`: rows of HR, PULSE, RESP, SpO2; `breaths`: two columns of samples."
    inner = Path(folder) / "bidmc_csv"
    inner.mkdir(parents=True, exist_ok=True)
    stem, values = inner / f"bidmc_{number:02}", waves(len(columns), 125 * seconds + 1, number)
    times = [f"{i / 125:.5g}" for i in range(len(values))]  # five digits, as published
    _csv(f"{stem}_Signals.csv", ("Time [s]", *columns), times, np.round(values, 5).tolist())
    numerics = numerics or [(80 + i % 3, 80, 12, 97) for i in range(seconds + 1)]
    _csv(f"{stem}_Numerics.csv", ("Time [s]", "HR", "PULSE", "RESP", "SpO2"),
         range(start, start + len(numerics)), numerics)
    first, second = breaths or [list(range(300, 125 * seconds, 500))] * 2
    rows = [(a, b) for a, b in zip(_filled(first, len(second)), _filled(second, len(first)))]
    Path(f"{stem}_Breaths.csv").write_text("\n".join(
        ["breaths ann1 [signal sample no], breaths ann2 [signal sample no]",
         *(f"{a},{b}" for a, b in rows)]) + "\n")
    Path(f"{stem}_Fix.txt").write_text(
        f"bidmc_{number:02}\nSignals: {'; '.join(columns)}\nSignals sampling frequency: 125 Hz\n"
        f"Numerics sampling frequency: 1 Hz\nAge: {age}\nGender: {sex}\nLocation: micu\n"
        f"MIMIC II matched wdb ID: {subject}\nMIMIC II data segment: 2688-03-25-23-14\n")
    return dict(zip(columns, np.round(values, 5).T))


def _filled(column, length):
    return [*column, *["NaN"] * (length - len(column))]


def _csv(path, columns, times, rows):
    lines = [", ".join(columns), *(",".join(map(str, (t, *row))) for t, row in zip(times, rows))]
    Path(path).write_text("\n".join(lines) + "\n")


def write_challenge_2015(folder, alarms, *, channels=(("II", "mV"), ("PLETH", "NU")), rate=250):
    "Recordings of `alarms`: name, type, truth; names in `l` go on for 30 s after the alarm."
    inner = Path(folder) / "training"
    for i, (name, kind, true) in enumerate(alarms):
        write_wfdb(inner, name, channels, rate, seed=i,
                   samples=82_500 if name.endswith("l") else 75_000,
                   comments=[kind, "True alarm" if true else "False alarm"])
    (inner / "RECORDS").write_text("".join(f"{o[0]}\n" for o in alarms))
    (inner / "ALARMS").write_text("".join(f"{n},{k},{int(t)}\n" for n, k, t in alarms))
    return Path(folder)


def write_beating_perform(folder, people, seconds=65):
    "MIMIC PERform AF's layout with hearts that beat: simulated `people` of each class."
    from biossl.cohorts.simulated import Simulated
    told = {0: [], 1: []}
    cohort = Simulated(subjects=20 * people, seconds=float(seconds))
    for i in range(cohort.subjects):
        if len(told[af := int(cohort.patient(i).af)]) < people: told[af].append(i)
    for group, numbers in (("af", told[1]), ("non_af", told[0])):
        inner, names = Path(folder) / f"mimic_perform_{group}_wfdb", []
        for k, i in enumerate(numbers, 1):
            sim, name = cohort.simulation(i), f"mimic_perform_{group}_{k:03}"
            channels = [("PPG, Fingertip", "NU"), ("ECG, bedside monitor, lead II", "mV")]
            write_wfdb(inner, name, channels, 125, values=np.stack([sim.ppg[0, 0], sim.ecg[0, 0]], 1),
                       comments=[f"<Original Subject ID>: p{i:06}"])
            names.append(name)
        (inner / "RECORDS").write_text("\n".join(names) + "\n")
    return Path(folder)


MIMIC_IV_ORDER = "I II III aVR aVF aVL V1 V2 V3 V4 V5 V6".split()  # aVF before aVL


def write_mimic_iv_ecg(folder, studies, *, seed=0):
    """MIMIC-IV-ECG's layout; `studies`: dictionaries of subject, study, reports and what deviates.

    The reports stand in the opposite order of the list. Gives the samples `(samples, 12)` by study.
    """
    folder, told, listed, waves_of = Path(folder), [], [], {}
    for i, o in enumerate(studies):
        place = f"files/p{o['subject'] // 10_000}/p{o['subject']}/s{o['study']}"
        if o.get("here", True):
            leads = o.get("leads", MIMIC_IV_ORDER)
            waves_of[o["study"]] = write_wfdb(
                folder / place, str(o["study"]), [(lead, o.get("unit", "mV")) for lead in leads],
                o.get("rate", 500), samples=o.get("samples", 5000), seed=seed + i,
                values=o.get("values"), comments=[f"<subject_id>: {o['subject']}"])
        who = f"{o['subject']},{o['study']}"
        listed.append(f"{who},{o['study']},2180-07-23 08:44:00,{place}/{o['study']}")
        reports = [*o["reports"], *[""] * (18 - len(o["reports"]))]
        if not o.get("untold"): told.append(f"{who},6848296,2180-07-23 08:44:00," + ",".join(
            f'"{line}"' for line in reports) + ",0.005-150 Hz,,659,40,128,170,258,518,81,77,65")
    head = [f"report_{i}" for i in range(18)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record_list.csv").write_text("\n".join(
        ["subject_id,study_id,file_name,ecg_time,path", *listed]) + "\n")
    (folder / "machine_measurements.csv").write_text("\n".join([",".join(
        ["subject_id", "study_id", "cart_id", "ecg_time", *head, "bandwidth", "filtering",
         "rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis",
         "t_axis"]), *told[::-1]]) + "\n")
    return waves_of


#: What a machine prints for some of the classes.
MACHINE = dict(NSR="Sinus rhythm", SB="Sinus bradycardia", STach="Sinus tachycardia", SA="Sinus arrhythmia",
               AF="Atrial fibrillation", AFL="Atrial flutter", IAVB="with 1st degree A-V block",
               CRBBB="Right bundle branch block", LBBB="Left bundle branch block", PVC="PVC(s)",
               LAD="Left axis deviation", RAD="Right axis deviation", PR="Paced rhythm",
               QAb="Abnormal Q waves", TInv="T wave inversion", LQRSV="Low QRS voltages")


def write_mimic_iv_people(folder, people):
    "Simulated `people` in MIMIC-IV-ECG's layout, each with what a machine would print."
    from biossl.cohorts.registry import get_cohort
    order = ["I", "II", "III", "AVR", "AVF", "AVL", *(f"V{k}" for k in range(1, 7))]
    def study(k, recording):
        ecg = recording.signal("ecg")
        said = [MACHINE[o] for o in recording.labels["dx"] if o in MACHINE]
        return dict(subject=10_000_000 + 10_000 * k + k, study=40_000_000 + k,
                    reports=(*said, "Read without a physician", "Clinical correlation advised"),
                    values=ecg.samples[[ecg.leads.index(o) for o in order]].T)
    made = get_cohort("simulated_12lead", subjects=people, rate=500.0).recordings()
    return write_mimic_iv_ecg(folder, [study(k, o) for k, o in enumerate(made)])
