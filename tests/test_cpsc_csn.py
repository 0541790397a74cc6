"CPSC 2018 and CSN with their labels: codes taken in full, ten seconds, the part that tables tell."
from dataclasses import replace

import layouts_12lead as layouts
import numpy as np
import pytest

from biossl.cohorts.benchmarks import CLASSES, label_set, published_parts, tables_folder
from biossl.cohorts.challenge_2020 import NO_SAMPLES
from biossl.cohorts.cpsc_csn import Cpsc2018, Csn
from biossl.cohorts.registry import get_cohort, locate
from biossl.data.errors import CohortError, RequestError
from biossl.data.recordings import Recording
from biossl.data.store import Windowing, pack
from biossl.train.runs import truth_of

WINDOWING = Windowing(signals=(("ecg", 100.0),), seconds=10, hop=10, beats=())


def cpsc(folder):
    "A0001 lasts 8 s, A0002 14 s, A0003 has a gap; another source beside it."
    here = folder / "challenge_2020/training/cpsc_2018/g1"
    layouts.challenge_record(here, "A0001", dx="164889003,164884008", wave=layouts.counts(1, 4000))
    layouts.challenge_record(here, "A0002", dx="426783006", wave=layouts.counts(2, 7000))
    gap = layouts.counts(3, 5000)
    gap[4, 9] = -32768
    layouts.challenge_record(here, "A0003", wave=gap)
    layouts.challenge_record(folder / "challenge_2020/training/georgia/g1", "E00001")
    return folder


def csn(folder):
    layouts.chapman_ningbo(folder / "chapman_ningbo")
    here = folder / "chapman_ningbo/WFDBRecords/01/010"
    layouts.challenge_record(here, "JS00001", dx="284470004,233917008", wave=layouts.counts(5, 5000))
    layouts.challenge_record(here, "JS00002", dx="164909002", wave=layouts.counts(6, 5000))
    return folder


def tables(home, name, file, column, **parts):
    "The published tables of a set, a recording in each part."
    for part, recording in parts.items():
        path = home / f"cohorts/merl_label_splits/data_split/{file}_{part}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        layouts.write_rows(path, [column, "diagnose", *CLASSES[name]], [
            dict.fromkeys(CLASSES[name], 0) | {column: recording, "diagnose": "SR"}])


def kept(cohort, folder):
    return {o.name: o for o in cohort.screened(folder) if isinstance(o, Recording)}


def test_cpsc_has_its_source_only_and_its_nine_labels(tmp_path, home):
    cohort = Cpsc2018()
    found = list(cohort.screened(cpsc(tmp_path)))
    assert [(o.recording, o.reason) for o in found if not isinstance(o, Recording)] == [
        ("A0003", NO_SAMPLES)]
    one, two = (o for o in found if isinstance(o, Recording))
    assert one.labels["cpsc2018"] == ("AFIB", "VPC") and two.labels["cpsc2018"] == ("NORM",)
    assert one.labels["part"] == "" and one.labels["cpsc2018_STD"] == 0
    windows = pack(cohort, WINDOWING, tmp_path)
    assert truth_of(windows, cohort.task("cpsc2018")).sum(1).tolist() == [2, 1]
    assert windows.arrays["ecg"].shape == (2, 12, 1000)


def test_ten_seconds_and_what_is_missing_is_zero_once_standardised(tmp_path):
    folder = cpsc(tmp_path)
    scaled, raw = (kept(Cpsc2018(o), folder) for o in ("standardised", "published"))
    for found, rate in ((scaled, 100), (raw, 500)):
        assert {o.signal("ecg").samples.shape for o in found.values()} == {(12, 10 * rate)}
    one = scaled["A0001"].signal("ecg").samples
    assert abs(one[:, 800:]).max() < 0.05 and one[:, :800].std() > 0.5
    ecg = raw["A0001"].signal("ecg").samples
    wave = layouts.counts(1, 4000) / 1000
    np.testing.assert_allclose(ecg[:, :4000], wave, atol=1e-6)
    np.testing.assert_allclose(ecg[:, 4000:], np.repeat(wave.mean(1)[:, None], 1000, 1), atol=1e-5)
    # what lies beyond ten seconds says nothing of the first ten
    layouts.challenge_record(folder / "challenge_2020/training/cpsc_2018/g1", "A0002",
                             dx="426783006", wave=layouts.counts(2, 7000) * (np.arange(7000) < 5000))
    again = kept(Cpsc2018(), folder)["A0002"].signal("ecg").samples
    assert np.array_equal(again, scaled["A0002"].signal("ecg").samples)


def test_csn_takes_codes_in_full_and_the_first_name_of_a_code(tmp_path, monkeypatch):
    table = layouts.CONDITIONS + "AVB,atrioventricular block,233917008\nVB,bigeminy,11157007\n"
    monkeypatch.setattr(layouts, "CONDITIONS", table)
    one, two = kept(Csn(), csn(tmp_path)).values()
    assert one.labels["csn"] == ("APB", "AVB") and one.labels["csn_VB"] == 0
    assert two.labels["csn"] == ("LBBB",)


def test_a_part_is_that_of_the_tables_and_the_rest_has_none(tmp_path, home):
    tables(home, "csn", "chapman/chapman", "ecg_path", train="/x/JS00007.mat",
           val="/x/JS00008.mat", test="/chapman/WFDBRecords/01/010/JS00002.mat")
    found = kept(Csn(split="published"), csn(tmp_path))
    assert {name: o.labels["part"] for name, o in found.items()} == {"JS00001": "", "JS00002": "test"}
    assert [o.labels["csn_part"] for o in found.values()] == ["", "test"]


def test_without_tables_there_is_no_published_split(tmp_path, home):
    with pytest.raises(CohortError, match="split tables are not at hand"):
        list(Csn(split="published").screened(csn(tmp_path)))


@pytest.mark.parametrize("name", ["csn", "cpsc2018"])
@pytest.mark.parametrize("ask, message", [
    (dict(scale="publish"), "no scale publish.*published"), (dict(split="non"), "no split non.*none"),
    (dict(withheld="AFIBB"), "AFIB")])
def test_options_that_there_are_not(name, ask, message):
    with pytest.raises(RequestError, match=message): get_cohort(name, **ask)


@pytest.mark.real
@pytest.mark.parametrize("cohort", [Cpsc2018(split="published"), Csn(split="published")])
def test_recordings_at_hand_have_the_published_labels(real_data, cohort):
    try: folder, _ = locate(cohort), tables_folder()
    except CohortError as e: pytest.skip(str(e))
    labels, shared = label_set(cohort.set_name), 0
    parts = published_parts(labels)
    told = {row["recording"]: row for o in ("train", "val", "test")
            for row in labels.table(o).to_dict("records")}
    found = kept(cohort, folder)
    for name, o in found.items():
        assert o.labels["part"] == parts.get(name, "")
        if name not in told: continue
        shared += 1
        assert o.labels[cohort.set_name] == tuple(c for c in labels.classes if told[name][c])
    assert shared and len(found) == len(kept(replace(cohort, split="none"), folder))
