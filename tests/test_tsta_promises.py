"""Chapter 12: what its tables declare, what they share with Table 1, and what a run of it leaves behind."""
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biossl.data.harms import KINDS
from biossl.data.store import pack
from biossl.evaluation.claims import Results
from biossl.evaluation.promises import PLAIN, at_level, at_once, leads, loses_less, read_shifts
from biossl.papers.tsta import table1
from biossl.papers.tsta_ablation import table2
from biossl.papers.tsta_promises import (asked, clock, homes, late, missing, motion, noise, people, promise_clock,
                                         promise_clock_taught, promise_domains, promise_domains_activity,
                                         promise_domains_simulated, promise_missing,
                                         promises, sites, spare, taught, tuned, windows)

ROOT = Path(__file__).parents[1]
DOMAINS = (promise_domains, promise_domains_simulated, promise_domains_activity)
TABLES = (*promises.values(), *DOMAINS)
SPECIFIED = {"promise_few_windows", "promise_few_people", "promise_noise", "promise_motion", "promise_missing",
             "promise_clock", "promise_clock_taught", "promise_domains", "promise_domains_simulated", "promise_domains_activity"}


def run_of(table, row, profile="paper"):
    return next(o for o in table.runs("simulated", profile) if o.row == row)


# ---- declarations ----------------------------------------------------------------------------

@pytest.mark.parametrize("table", TABLES, ids=lambda o: o.name)
def test_every_promise_has_chance_the_untrained_network_the_supervised_one_and_a_clinician(table):
    assert {"chance", "random_init", "clinical", "supervised"} <= {o.method for o in table.rows}
    assert table.metrics == ("f1_macro", "auroc")


@pytest.mark.parametrize("table", promises.values(), ids=list(promises))
def test_all_rows_stand_at_all_levels_and_are_compared_with_tsta_net_there(table):
    rows = [o for o in table.rows if " | " in o.name]
    levels = list(dict.fromkeys(o.name.partition(" | ")[2] for o in rows))
    assert levels[0] == PLAIN
    for level in levels:
        here = [o for o in rows if o.name.endswith(f" | {level}")]
        assert here[0].name == at_level(tuned.name, level) and not here[0].versus
        assert {o.versus for o in here[1:]} == {here[0].name}
    whole = {o.name.partition(" | ")[0] for o in rows}
    assert {sum(r.name.startswith(f"{o} | ") for r in rows) for o in whole} == {len(levels)}


def test_the_levels_are_those_of_the_protocol():
    white = {k: [o.level for o in v.values()] for k, v in noise.items() if k.startswith("white")}
    assert len(white) == 3 and all(o == [20, 10, 5, 0, -5] for o in white.values())
    assert {o.signals for v in noise.values() for o in v.values()} == {
        ("ecg", "ppg"), ("ecg",), ("ppg",)}
    assert {(o.level, o.share) for v in motion.values() for o in v.values()} == {
        (a, b) for a in (1, 2, 4) for b in (0.1, 0.3, 0.5)}
    assert {(o.kind, o.signals) for v in missing.values() for o in v.values()} == {
        (a, (b,)) for a in ("flat", "off") for b in ("ecg", "ppg")}
    assert [o.level for o in clock["PPG later by"].values()] == [0.1, 0.25, 0.5, 1, 2]
    assert [o.level for o in clock["drift"].values()] == [100, 500]
    assert [o[1] for _, o in windows.values()] == [0.01, 0.05, 0.1]
    assert [o[1] for _, o in people.values()] == [2, 4, 8]
    harms = {o.kind for panels in (noise, motion, missing, clock) for v in panels.values() for o in v.values()}
    assert harms == set(KINDS) - {"mains"}     # which cannot pass the resampler


def test_what_is_lost_can_be_trained_for_and_done_without():
    assert [o.dropped for o in spare].count(0.2) == 1
    assert {o.hyper for o in spare if o.judge == "finetune" and not o.dropped} == {
        (("signals", ("ecg",)),), (("signals", ("ppg",)),)}
    rows = {o.name.partition(" | ")[0] for o in promise_missing.rows}
    assert {o.name for o in spare} < rows


@pytest.mark.parametrize("here, table, there", [
    ("TSTA-Net, fine-tuned", table1, "TSTA-Net, fine-tuned"), ("TSTA-Net, probe", table1, "TSTA-Net, probe"),
    ("Supervised, same network", table1, "Supervised, same network"),
    ("Random init, probe", table1, "Random init, probe"),
    ("Beat intervals, both", table1, "Beat intervals, both"),
    ("Remove STN", table2, "Remove STN"), ("STN, random warp", table2, "STN, random warp"),
    ("STN at the input", table2, "STN at the input"),
    ("TSTA-Net, ECG alone", table2, "Single ECG"), ("TSTA-Net, PPG alone", table2, "Single PPG")])
def test_plain_rows_are_the_published_ones_in_every_field(here, table, there):
    "So that their weights, and where nothing is harmed their predictions, are found again."
    mine = next(o for o in TABLES if at_level(here, PLAIN) in [r.name for r in o.rows])
    made = {}
    for one, name in ((mine, at_level(here, PLAIN)), (table, there)):
        profile = one.profile("paper").on("cpu", one.cut, one.cut_seeds)
        runs = [o for o in one.runs("mimic_perform_af", profile) if o.row == name]
        made[one.name] = [replace(o, row="") for o in runs]
    assert made[mine.name] == made[table.name]


def test_clocks_err_at_the_test_alone_or_in_training_too():
    told = {o.row: o for table in (promise_clock, promise_clock_taught)
            for o in table.runs("simulated", "smoke") if o.fold == 0}
    for site in sites:
        test, both = (told[at_level(site.name, o)] for o in (str(late), taught))
        assert (test.harmed, both.harmed) == ("test", "both") and test.harm == both.harm == late
        assert test.clean == replace(told[at_level(site.name, PLAIN)], row=test.row)


@pytest.mark.parametrize("table", DOMAINS, ids=lambda o: o.name)
def test_pre_training_goes_everywhere_but_home(table):
    runs = {o.row: o for o in table.runs("", "smoke") if o.fold == 0}
    away = {home: runs[f"TSTA-Net from {home}, probe"].abroad for home in homes}
    assert away.pop(table.cohort) == ()
    assert {k: v[0] for k, v in away.items()} == {k: k for k in away}


def test_no_two_rows_of_a_promise_are_the_same_run(home):
    for table in TABLES:
        runs = [o for o in table.runs("", "smoke") if o.fold == 0]
        keys = [o.key for o in runs if not (o.abroad and o.abroad[0] == "mimic_perform_af")]
        assert len(set(keys)) == len(keys)


# ---- verdicts --------------------------------------------------------------------------------

def results_of(gains):
    "Predictions whose classes lie `gains` apart, on the same noise for everybody."
    noise, truth = np.random.default_rng(0).normal(size=400), np.repeat(np.arange(40) % 2, 10)
    frames = [pd.DataFrame(dict(
        run=f"{k}", row=at_level(*name), fold=0, seed=0, window=range(400), recording="x", truth=truth,
        subject=np.repeat([f"s{o:02}" for o in range(40)], 10),
        score_0=-gain * (truth - 0.5) - noise, score_1=gain * (truth - 0.5) + noise))
        for k, (name, gain) in enumerate(gains.items())]
    frames = [o.assign(score_1=1 / (1 + np.exp(-o.score_1)), score_0=1 / (1 + np.exp(o.score_1))) for o in frames]
    records = [dict(key=f"{k}", row=at_level(*name), fold=0, seed=0) for k, name in enumerate(gains)]
    return Results(pd.concat(frames), records, 300)


@pytest.mark.parametrize("one, other, verdict", [
    ((2, 2), (3, 0.5), "stands"), ((2, 0), (3, 3), "does not stand"), ((2, 1), (2, 1), "cannot be told"),
    ((0, 0), (3, 0), "cannot be told"), ((2, 2), (0, 0), "cannot be told")])
def test_robust_is_who_loses_less_of_what_he_had(one, other, verdict):
    results = results_of({("A", PLAIN): one[0], ("A", "bad"): one[1], ("B", PLAIN): other[0], ("B", "bad"): other[1]})
    found = leads(results, "A", ["B"], [PLAIN, "bad"], ("f1_macro",))
    assert loses_less(results, found, "A loses less.", "A", "B").verdict == verdict


def test_a_gain_that_does_not_hold_at_all_levels_at_once_is_not_beyond_doubt():
    results = results_of({("A", PLAIN): 2, ("A", "bad"): 2, ("B", PLAIN): 3, ("B", "bad"): 0.5})
    found = leads(results, "A", ["B"], [PLAIN, "bad"], ("f1_macro",))
    assert (found.gained_low > 0).sum() == (found.all_low > 0).sum() == 1
    told = loses_less(results, found.assign(all_low=found.all_low.clip(upper=-1)), "A loses less.", "A", "B")
    assert told.verdict == "cannot be told" and "grows beyond doubt at 0, and shrinks at 0" in told.evidence


def test_leads_are_differences_of_what_the_rows_reach_and_gains_differences_of_leads():
    results = results_of({("A", PLAIN): 2, ("A", "bad"): 1, ("B", PLAIN): 3, ("B", "bad"): 0.5})
    found = leads(results, "A", ["B"], [PLAIN, "bad"], ("auroc",)).set_index("level")
    value = lambda row, level: 100 * results.estimate(at_level(row, level), "auroc").mean  # noqa: E731
    for level in (PLAIN, "bad"):
        assert np.isclose(found.difference[level], value("A", level) - value("B", level), atol=1e-3)
    assert np.isclose(found.gained["bad"], found.difference["bad"] - found.difference[PLAIN], atol=1e-3)
    assert found.gained_low["bad"] <= found.gained["bad"] <= found.gained_high["bad"]
    assert found.all_low[PLAIN] == found.all_high[PLAIN] == 0
    assert found.all_low["bad"] < found.gained["bad"] < found.all_high["bad"]


def test_intervals_at_once_hold_for_all_values_in_as_many_cases_as_they_say():
    rng, held, alone = np.random.default_rng(0), [], []
    for _ in range(400):
        x = rng.normal(size=(20, 200)) * np.arange(1, 21)[:, None]     # twenty quantities of mean 0
        weights = rng.multinomial(200, np.full(200, 1 / 200), size=300)
        values, draws = x.mean(1), x @ weights.T / 200
        low, high = at_once(values, draws)
        held.append(((low <= 0) & (0 <= high)).all())
        own = np.quantile(draws, [0.025, 0.975], axis=1)
        alone.append(((own[0] <= 0) & (0 <= own[1])).all())
    assert 0.9 < np.mean(held) < 0.98 and np.mean(alone) < 0.5


def test_intervals_at_once_are_none_of_what_never_varies_and_leave_out_undefined_draws():
    draws = np.random.default_rng(0).normal(size=(3, 500)) + [[0], [5], [0]]
    draws[2], draws[0, :50] = 7, np.nan
    low, high = at_once([0, 5, 7], draws)
    assert low[2] == high[2] == 7 and np.isfinite([low, high]).all()
    np.testing.assert_allclose((low + high)[:2] / 2, [0, 5])
    one = at_once([5], draws[[1]])
    assert low[1] < one[0] < 5 - 1.8 and 5 + 1.8 < one[1] < high[1]


def test_what_is_read_later_is_counted_from_the_clean_recording_and_by_person(home, monkeypatch):
    import biossl.evaluation.promises as room
    run = replace(run_of(promise_clock, at_level(tuned.name, PLAIN), "smoke"), folds=2)
    clean = pack(*run.source()).key
    read = {"0.5 s": 0.4, "1 s": 0.7}
    harms = clock["PPG later by"]
    keys = {pack(*replace(run, harm=harms[o]).asked_source()).key: o for o in read}
    monkeypatch.setattr(room, "_read", lambda method, windows, rows: np.full(
        len(rows), 0.1 if windows.key == clean else 0.1 + read[keys[windows.key]]))
    found = read_shifts([run], {o: harms[o] for o in read}, "cpu")
    assert set(found.late) == {0.5, 1.0} and found.groupby("late").subject.nunique().min() > 1
    assert not found.duplicated(["late", "subject"]).any() and clean not in keys
    for o, value in read.items(): assert np.allclose(found[found.late == harms[o].level].read, value)


# ---- the chapter -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "The files that the chapter writes in the smoke profile."
    out = tmp_path_factory.mktemp("promises")
    env = {k: v for k, v in os.environ.items() if k != "BIOSSL_DATA"} | dict(BIOSSL_HOME=str(out / "home"))
    done = subprocess.run([sys.executable, "-m", "papermill", "nbs/12_tsta_promises.ipynb", str(out / "run.ipynb"),
                           "-p", "profile", "smoke", "-p", "out", str(out), "-p", "workers", "1",
                           "--no-progress-bar"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Passed unknown parameter" not in done.stderr
    return out / "12_tsta_promises"


def test_the_chapter_writes_every_promise_as_a_table_and_a_picture(made):
    assert not (made / f"{promise_domains_simulated.name}.csv").exists()   # the cohort itself is simulated
    for table in (o for o in TABLES if o is not promise_domains_simulated):
        frame = pd.read_csv(made / f"{table.name}.csv").fillna({"versus": ""})
        assert list(frame.row.unique()) == [o.name for o in table.rows]
        ran = frame[~frame.schedule.str.startswith("not run")]
        lost = set(frame.row) - set(ran.row)
        assert lost <= {"TSTA-Net from mimic_perform_af, probe"} and (ran.n > 0).all()
        assert set(frame.metric) == {"f1_macro", "auroc"} and ran["mean"].between(0, 100).all()
        assert (made / f"{table.name}.png").is_file() and (made / f"{table.name}.svg").is_file()
    assert {o.name for o in TABLES} == SPECIFIED


@pytest.mark.parametrize("name", promises)
def test_leads_are_kept_with_intervals_and_agree_with_the_table(made, name):
    found, frame = pd.read_csv(made / f"{name}_leads.csv"), pd.read_csv(made / f"{name}.csv")
    assert (found.low <= found.high).all() and (found.gained[found.level == PLAIN] == 0).all()
    value = frame.set_index(["row", "metric"])["mean"]
    for line in found.itertuples():
        one, other = (value[at_level(o, line.level), line.metric] for o in (line.row, line.versus))
        assert np.isclose(line.difference, one - other, atol=0.01)


def test_what_the_warps_read_and_the_verdicts_are_kept(made):
    shifts, told = (pd.read_csv(made / f"{o}.csv") for o in ("promise_clock_shifts", "promises"))
    assert set(shifts.late) == {0.5, 1.0, 2.0} and shifts.read.notna().all()
    assert set(told.verdict) <= {"stands", "does not stand", "cannot be told", "was not run"}
    assert len(told) >= 12 and told.evidence.notna().all()
    assert {o.name for o in asked} <= {o.partition(" | ")[0] for o in pd.read_csv(made / "promise_noise.csv").row}
