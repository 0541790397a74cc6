"""Parts: planted identity and diagnosis are found where they were planted, and people stay apart."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import Task
from biossl.data.errors import MethodError, RequestError, SplitError
from biossl.evaluation.metrics import measure
from biossl.evaluation.parts import _pooled, directions, ecg_parts, half, identified, probed
from biossl.nn.alignment import disentangled

SEX = Task("sex", "sex", "binary", ("male", "female"))
AGE = Task("age", "age", "regression", unit="years")
DX = Task("dx", "dx", "multilabel", ("AF", "SB"))


def nearest_slowly(x, subjects, groups):
    "Who is asked, and whether the nearest by cosine of other groups is of the same person."
    found = {}
    for i in range(len(x)):
        others = [k for k in range(len(x)) if groups[k] != groups[i]]
        if not any(subjects[k] == subjects[i] for k in others): continue
        near = [x[i] @ x[k] / np.linalg.norm(x[i]) / np.linalg.norm(x[k]) for k in others]
        found[i] = subjects[others[int(np.argmax(near))]] == subjects[i]
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_identity_is_as_found_one_by_one(seed):
    rng = np.random.default_rng(seed)
    x, subjects, groups = rng.normal(size=(14, 3)), rng.integers(0, 5, 14), rng.integers(0, 9, 14)
    slow = nearest_slowly(x, subjects, groups)
    if not slow:
        with pytest.raises(RequestError): identified(x, subjects, groups)
        return
    asked, hit, chance = identified(x, subjects, groups)
    assert dict(zip(asked.tolist(), hit.tolist())) == slow
    for i, o in zip(asked, chance):
        others = groups != groups[i]
        assert o == pytest.approx((subjects[others] == subjects[i]).mean())


def planted(seed=0):
    "Forty people of four windows in two recordings: who they are in one part, what they have in another."
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(40), 4)
    faces, af = rng.normal(size=(40, 12)), (rng.random(40) < 0.5).astype(int)
    keeps = faces[people] + 0.1 * rng.normal(size=(160, 12))
    tells = np.c_[af[people] * 3.0, np.zeros((160, 3))] + rng.normal(size=(160, 4))
    return keeps, tells, people, np.arange(160) // 2, af[people]


def test_identity_is_found_where_it_was_planted_and_diagnosis_where_that_was():
    keeps, tells, people, recordings, af = planted()
    train, test, truth = np.arange(80), np.arange(80, 160), np.c_[af, 1 - af]
    for x, identity, diagnosis in ((keeps, True, False), (tells, False, True)):
        hit = identified(x[test], people[test], recordings[test])[1].mean()
        assert hit == 1 if identity else hit < 0.2
        said = probed(x, truth, people, train, test, DX)
        right = ((said.scores[:, 0] > 0.5) == said.truth[:, 0]).mean()
        assert right > 0.85 if diagnosis else right < 0.75


def test_another_window_of_the_same_recording_is_no_answer():
    rng = np.random.default_rng(0)
    recordings, people = np.arange(60) // 3, np.arange(60) // 6
    x = rng.normal(size=(20, 8))[recordings] + 0.01 * rng.normal(size=(60, 8))     # recordings, not people
    assert identified(x, people)[1].mean() == 1
    assert identified(x, people, recordings)[1].mean() < 0.35
    with pytest.raises(RequestError, match="second"): identified(x, recordings, recordings)


def test_the_probe_asks_other_people_leaves_out_what_is_not_known_and_reads_all_kinds():
    rng = np.random.default_rng(0)
    x, people = rng.normal(size=(120, 5)), np.arange(120) // 2
    age, sex = x[:, 0] * 10 + 50, (x[:, 1] > 0).astype(int)
    age[[3, 100]], sex[[5, 101]] = np.nan, -1
    train, test = np.arange(80), np.arange(80, 120)
    said = probed(x, age, people, train, test, AGE)
    assert len(said) == 39 and np.corrcoef(said.truth, said.scores)[0, 1] > 0.95
    said = probed(x, sex, people, train, test, SEX)
    assert said.scores.shape == (39, 2) and (said.decided == said.truth).mean() > 0.9
    with pytest.raises(SplitError): probed(x, age, people, np.arange(81), np.arange(81, 120), AGE)


def test_directions_are_counted_as_elsewhere_and_effective_ones_by_spread():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8)) + 5
    assert directions(x)[0] == disentangled(torch.tensor(x), torch.tensor(x)).rank == 3
    assert directions(np.ones((9, 4))) == (0, 0.0)
    variance = np.linalg.eigvalsh(np.cov(x.T))
    assert directions(x)[1] == pytest.approx(variance.sum()**2 / (variance**2).sum())


@pytest.mark.parametrize("samples", [8, 9, 11])
def test_halves_are_told_apart_and_fill_the_window(samples):
    x = np.arange(3 * 12 * samples).reshape(3, 12, samples)
    first, last = half(x, 0), half(x, 1)
    middle = samples // 2
    for part, own in ((first, x[..., :middle]), (last, x[..., -middle:])):
        assert part.shape == x.shape
        np.testing.assert_array_equal(part, np.concatenate([own] * 3, -1)[..., :samples])
    np.testing.assert_array_equal(half(torch.tensor(x), 1), last)


class Parted(torch.nn.Module):
    "Its embedding is the ECG's first values; one head doubles them, the other turns their sign."
    name, embed_keys = "parted", ("ecg",)
    class size: width = 3
    class config: out = 3
    class heads:
        shared, specific = dict(ecg=lambda x: 2 * x), dict(ecg=lambda x: -x)

    def read(self, batch): return batch["ecg"]
    def encoder(self, ecg): return ecg[:, 0, :3]


class Drawn:
    cohort, signals = "drawn", ("ecg",)
    ecg = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    def batch(self, rows, keys): return dict(ecg=self.ecg[rows])


def test_parts_are_the_encoders_and_each_heads_own():
    rows = np.array([4, 0, 2])
    found = ecg_parts(Parted(), Drawn(), rows)
    for part, scale in (("embedding", 1), ("shared", 2), ("specific", -1)):
        np.testing.assert_allclose(found[part], scale * Drawn.ecg[rows, 0, :3])
    changed = ecg_parts(Parted(), Drawn(), rows, change=lambda x: x + 1)
    np.testing.assert_allclose(changed["specific"], -Drawn.ecg[rows, 0, :3] - 1, rtol=1e-6)


def test_what_probes_of_folds_say_is_ranked_within_folds():
    keeps, tells, people, recordings, af = planted()
    sides = [(people < 20, people >= 20), (people >= 20, people < 20)]
    folds = [probed(tells, np.c_[af, 1 - af], people, *(np.flatnonzero(o) for o in side), DX) for side in sides]
    both = _pooled(folds)
    assert both.folds.tolist() == [0] * 80 + [1] * 80 and len(both) == 160
    both.scores[80:] += 5
    assert measure("auroc", both.truth, both.scores, folds=both.folds) == pytest.approx(np.average(
        [measure("auroc", o.truth, o.scores) for o in folds], weights=[o.truth[:, 0].sum() * o.truth[:, 1].sum() for o in folds]))


def test_who_has_no_specific_part_is_refused():
    method = type("Plain", (), dict(name="plain", embed_keys=("ecg",)))()
    with pytest.raises(MethodError, match="no specific part"): ecg_parts(method, None, np.arange(3))
