"""The challenge's metrics against loops that follow the organisers' definitions step by step."""
import csv
import tarfile
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.statements import CLASSES, SCORED
from biossl.data.errors import RequestError
from biossl.evaluation.challenge import (GRID, NSR, PLACES, WEIGHTS, accuracy_all, auprc_official,
                                         auroc_official, challenge_metrics, challenge_parts,
                                         challenge_score, choose_thresholds, class_auprc,
                                         class_auroc, class_f1, f1_macro_official, f_beta, g_beta,
                                         scaled)

quietly = settings(deadline=None, max_examples=12)
THREE = np.array([[1, .375, .25], [.375, 1, .375], [.25, .375, 1]])
Y = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 0]])
S = np.array([[.9, .2, .3], [.1, .3, .8], [.2, .4, .7], [.6, .1, .5], [.5, .5, .2]])
CALLS = (S >= .45).astype(int)


# The second implementation: one recording, one class, one threshold at a time.
def plain_sum(y, calls, w):
    total = 0.0
    for truth, call in zip(y, calls):
        shared = max(sum(1 for a, b in zip(truth, call) if a or b), 1)
        for j in range(len(w)):
            for k in range(len(w)):
                if truth[j] and call[k]: total += w[j][k] / shared
    return total


def plain_challenge(y, calls, w=WEIGHTS, sinus=NSR):
    healthy = [[int(k == sinus) for k in range(len(w))] for _ in y]
    low, high = plain_sum(y, healthy, w), plain_sum(y, y, w)
    return (plain_sum(y, calls, w) - low) / (high - low) if high != low else 0.0


def plain_counts(y, calls, k, weigh):
    hits = alarms = misses = 0.0
    for truth, call in zip(y, calls):
        share = 1 / max(sum(truth), 1) if weigh else 1
        hits += share * (truth[k] == 1 and call[k] == 1)
        alarms += share * (truth[k] == 0 and call[k] == 1)
        misses += share * (truth[k] == 1 and call[k] == 0)
    return hits, alarms, misses


def plain_mean(values):
    known = [o for o in values if o == o]
    return sum(known) / len(known) if known else float("nan")


def plain_f(y, calls, beta, weigh, g=False):
    def one(k):
        hits, alarms, misses = plain_counts(y, calls, k, weigh)
        if not hits + alarms + misses: return float("nan")
        if g: return hits / (hits + alarms + beta * misses)
        return (1 + beta**2) * hits / ((1 + beta**2) * hits + alarms + beta**2 * misses)
    return plain_mean([one(k) for k in range(len(y[0]))])


def plain_rates(member, score):
    "TPR, TNR, PPV at thresholds of one more than all scores, then each score, descending."
    for level in [max(score) + 1, *sorted(set(score), reverse=True)]:
        chosen = [o >= level for o in score]
        tp = sum(1 for m, c in zip(member, chosen) if m and c)
        fp = sum(1 for m, c in zip(member, chosen) if not m and c)
        positives, negatives = sum(member), len(member) - sum(member)
        yield (tp / positives if positives else float("nan"),
               (negatives - fp) / negatives if negatives else float("nan"),
               tp / (tp + fp) if tp + fp else float("nan"))


def plain_auroc(member, score):
    rates = list(plain_rates(member, score))
    return sum((b[0] - a[0]) * (b[1] + a[1]) / 2 for a, b in zip(rates, rates[1:]))


def plain_auprc(member, score):
    rates = list(plain_rates(member, score))
    return sum((b[0] - a[0]) * b[2] for a, b in zip(rates, rates[1:]))


def plain_thresholds(y, scores, grid, w=WEIGHTS, sinus=NSR):
    "Every class, every value, the whole score anew; scores within rounding are equal."
    chosen = []
    for k in range(len(w)):
        tried = []
        for value in grid:
            levels = np.full(len(w), grid[0])
            levels[k] = value
            tried.append(plain_challenge(y, (scores >= levels).astype(int), w, sinus))
        chosen.append(next(v for v, o in zip(grid, tried) if o >= max(tried) - 1e-12))
    return chosen


def plain_metrics(y, s, calls):
    y, s, calls = y.tolist(), s.tolist(), calls.tolist()
    columns = list(zip(zip(*y), zip(*s)))
    right = [a == b for a, b in zip(y, calls)]
    return dict(challenge_auroc=plain_mean([plain_auroc(*o) for o in columns]),
                challenge_auprc=plain_mean([plain_auprc(*o) for o in columns]),
                challenge_accuracy=sum(right) / len(right),
                challenge_f1=plain_f(y, calls, 1, False), challenge_f2=plain_f(y, calls, 2, True),
                challenge_g2=plain_f(y, calls, 2, True, g=True), challenge=plain_challenge(y, calls))


def drawn(seed, n=30, rare=.15, levels=10):
    "Truth with empty recordings, empty classes and now and then full ones; scores with many ties."
    generator = np.random.default_rng(seed)
    prevalence = generator.choice([0, rare, rare, rare, 1], 24)
    y = (generator.random((n, 24)) < prevalence).astype(int)
    s = np.round(generator.random((n, 24)) * .7 + .3 * y * generator.random((n, 24)), 1 if levels
                 else 9)
    return y, s


def deterministic():
    "The made set of 200 recordings that the organisers' package was run on."
    i, k = np.arange(200)[:, None], np.arange(24)
    y = ((7 * i + 11 * k + 3 * i * k) % 13 == 0).astype(int)
    return y, (37 * i + 53 * k + 5 * i * i * k) % 101 / 100, (5 * i + 17 * k + i * k) % 29 == 0


ALL = ("challenge_auroc", "challenge_auprc", "challenge_accuracy", "challenge_f1", "challenge_f2",
       "challenge_g2", "challenge")


def test_places_are_those_of_all_classes():
    assert list(PLACES) == list(CLASSES) and CLASSES[NSR] == "NSR" and len(CLASSES) == 24
    assert not WEIGHTS.flags.writeable
    row = [.2, .4, .4, .2, .3, .2, .25, .25, .375, .325, .25, .275, .2375, .275, .2, .35, 1, .25,
           .2, .2, .15, .275, .4, .4]
    np.testing.assert_allclose(WEIGHTS[CLASSES.index("QAb")], row, rtol=0, atol=1e-15)
    off = WEIGHTS[~np.eye(24, dtype=bool)]
    assert off.min() == pytest.approx(.15) and off.max() == .5
    assert WEIGHTS.sum() == pytest.approx(244.525, abs=1e-9) and np.trace(WEIGHTS) == 24


@pytest.mark.real
def test_weights_are_those_that_the_organisers_publish(real_data):
    archive = next((o / "challenge_2020_labels.tar.xz" for o in real_data
                    if (o / "challenge_2020_labels.tar.xz").is_file()), None)
    if archive is None: pytest.skip("the organisers' labels are not at hand")
    with tarfile.open(archive) as tar:
        lines = tar.extractfile("challenge_2020_labels/weights.csv").read().decode().splitlines()
        licence = tar.extractfile("challenge_2020_labels/LICENSE").read().decode()
    header, *rows = csv.reader(lines)
    assert [o[0] for o in rows] == header[1:] and set(header[1:]) == set(SCORED)
    ours = [CLASSES.index(SCORED[o]) for o in header[1:]]
    theirs = np.array([[float(x) for x in o[1:]] for o in rows])
    np.testing.assert_allclose(WEIGHTS[np.ix_(ours, ours)], theirs, rtol=0, atol=1e-15)
    assert theirs.sum() == pytest.approx(314.65)
    first = list(dict.fromkeys(SCORED[o] for o in header[1:]))   # the order that names the classes
    assert first == list(CLASSES)
    import inspect

    from biossl.evaluation import challenge
    kept = " ".join(inspect.getsource(challenge).replace("#", " ").split()).lower()
    for part in licence.split("\n\n")[1:]:
        for sentence in " ".join(part.split()).lower().replace("all rights reserved.", "").split(". "):
            assert sentence.strip(". ") in kept


def test_digits_of_the_made_set():
    y, s, flips = deterministic()
    assert y.sum() == 340 and (s >= .5).sum() == 2350 and (y.sum(axis=0) == 0).sum() == 2
    found = challenge_metrics(y, s, s >= .5)
    printed = (.5139917165, .0972578682, 0, .1241775907, .2041968435, .0572985748, .4168887487)
    for name, value in zip(ALL, printed): assert found[name] == pytest.approx(value, abs=5.1e-11)
    assert challenge_score(y, y) == 1
    assert challenge_score(y, 0 * y) == pytest.approx(-.2570184705, abs=5.1e-11)
    assert challenge_score(y, 0 * y + 1) == pytest.approx(.4839997012, abs=5.1e-11)
    calls = y ^ flips
    assert flips.sum() == 166 and accuracy_all(y, calls) == pytest.approx(.17)
    for function, value in ((f1_macro_official, .7435409689), (f_beta, .8086239006),
                            (g_beta, .5801956937), (challenge_score, .7995347696)):
        assert function(y, calls) == pytest.approx(value, abs=5.1e-11)


def test_digits_of_the_worked_example():
    np.testing.assert_allclose(class_auroc(Y, S), [.833333, 1, 1], atol=5e-7)
    np.testing.assert_allclose(class_auprc(Y, S), [.833333, 1, 1], atol=5e-7)
    np.testing.assert_allclose(class_f1(Y, CALLS), [.8, .666667, 1], atol=5e-7)
    for found, value in ((auroc_official(Y, S), .944444), (auprc_official(Y, S), .944444),
                         (accuracy_all(Y, CALLS), .6), (f1_macro_official(Y, CALLS), .822222),
                         (f_beta(Y, CALLS), .812636), (g_beta(Y, CALLS), .644444)):
        assert found == pytest.approx(value, abs=5.1e-7)
    parts = challenge_parts(Y, CALLS, THREE, 2).sum(axis=0)
    np.testing.assert_allclose(parts, [4.6875, 5.75, 3.0208333], atol=5e-8)
    assert challenge_score(Y, CALLS, THREE, 2) == pytest.approx(.6106870229, abs=5.1e-11)


def test_what_cannot_be_divided_is_as_the_organisers_have_it():
    no_af = Y * [0, 1, 1]
    assert np.isnan(class_auroc(no_af, S)[0]) and np.isnan(class_auprc(no_af, S)[0])
    assert auroc_official(no_af, S) == auprc_official(no_af, S) == 1
    assert class_f1(no_af, CALLS)[0] == 0
    assert f1_macro_official(no_af, CALLS) == pytest.approx(.555556, abs=5.1e-7)
    silent = CALLS * [0, 1, 1]
    assert np.isnan(class_f1(no_af, silent)[0])
    for function, value in ((f1_macro_official, .833333), (f_beta, .857143), (g_beta, .75)):
        assert function(no_af, silent) == pytest.approx(value, abs=5.1e-7)
    all_sinus = np.maximum(Y, [0, 0, 1])
    assert np.isnan(class_auroc(all_sinus, S)[2]) and class_auprc(all_sinus, S)[2] == 1
    assert auroc_official(all_sinus, S) == pytest.approx(.916667, abs=5.1e-7)


def test_nothing_at_all_is_nan_and_says_nothing_aloud():
    nothing = np.zeros((4, 24), int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = challenge_metrics(nothing, nothing, nothing)
    assert found["challenge_accuracy"] == 1 and found["challenge"] == 0
    assert all(np.isnan(v) for k, v in found.items() if k not in ("challenge_accuracy", "challenge"))


def test_calling_all_sinus_rhythm_scores_nothing_and_healthy_people_cannot_be_scored():
    y, _, _ = deterministic()
    healthy = np.zeros_like(y)
    healthy[:, NSR] = 1
    assert challenge_score(y, healthy) == 0
    assert challenge_score(healthy, y) == 0   # truth itself earns what sinus rhythm earns
    assert scaled([[1, 3, 1], [5, 2, 2]]).tolist() == [0, 0]
    s = np.random.default_rng(0).random(y.shape)
    assert (choose_thresholds(healthy, s) == GRID[0]).all()


@quietly
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_all_seven_equal_the_plain_loops(seed, n):
    y, s = drawn(seed, n)
    calls = (s >= .3).astype(int)
    theirs = plain_metrics(y, s, calls)
    assert tuple(theirs) == ALL
    for name, value in challenge_metrics(y, s, calls).items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-9, err_msg=name)


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_thresholds_equal_the_plain_search(seed, ties, half):
    y, s = drawn(seed, 25, levels=10 if ties else 0)
    grid = np.float16(GRID).astype(float) if half else GRID
    assert choose_thresholds(y, s, grid).tolist() == plain_thresholds(y, s, list(grid))


def test_thresholds_of_the_made_set_and_a_score_on_the_grid():
    y, s, _ = deterministic()
    assert choose_thresholds(y, s).tolist() == plain_thresholds(y, s, GRID)
    truth, score = np.zeros((4, 24), int), np.zeros((4, 24))
    truth[:, 1], score[:, 1], score[1:, 2] = 1, .3, .3
    found = choose_thresholds(truth, score)    # AF is called up to 0.3, flutter from 0.4 on no more
    assert found[1] == .1 and found[2] == .4 and (np.delete(found, 2) == .1).all()
    half = choose_thresholds(truth, score, np.float16(GRID))   # 0.30005 calls no flutter at 0.3
    assert half[2] == float(np.float16(.3))


def test_thresholds_on_the_same_people_flatter():
    generator = np.random.default_rng(1)
    y = (generator.random((400, 24)) < .1).astype(int)
    s = 1 / (1 + np.exp(-(2.2 * y - 1.5 + generator.normal(size=y.shape))))
    own = choose_thresholds(y[:200], s[:200])
    lent = choose_thresholds(y[200:], s[200:])
    assert challenge_score(y[:200], s[:200] >= own) > challenge_score(y[:200], s[:200] >= lent)


@pytest.mark.parametrize("truth, calls", [
    (Y, CALLS[:, :2]), (Y, CALLS[:3]), (Y, S), (Y * 2, CALLS), (Y[:, 0], CALLS[:, 0]),
    (Y[:0], CALLS[:0]), (np.where(Y, 1, np.nan), CALLS)])
def test_what_is_not_of_zeros_and_ones_is_refused(truth, calls):
    for function in (accuracy_all, class_f1, f_beta, g_beta):
        with pytest.raises(RequestError): function(truth, calls)
    with pytest.raises(RequestError): challenge_parts(truth, calls, THREE, 2)


@pytest.mark.parametrize("scores", [np.where(S > .8, np.nan, S), S[:, :2], S[0]])
def test_scores_that_do_not_fit_are_refused(scores):
    for function in (auroc_official, auprc_official, choose_thresholds):
        with pytest.raises(RequestError): function(Y, scores)
