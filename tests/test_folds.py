"""Rankings within folds: scores of two models are never compared."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from biossl.evaluation.answers import Answers, read_answers
from biossl.evaluation.metrics import METRICS, measure
from biossl.evaluation.statistics import (bootstrap, curve, curve_band, estimate, per_class,
                                          resample_answers)

quietly = settings(deadline=None, max_examples=15)
RANKINGS = {o.name for o in METRICS.values() if o.ranking}


def asked(seed, kind="two", subjects=18, folds=3):
    "Answers of people with 1 to 4 windows, each person in one fold; scores have ties."
    generator = np.random.default_rng(seed)
    people = np.repeat(np.arange(subjects), generator.integers(1, 5, subjects))
    names, fold = np.array([f"s{o:02}" for o in people]), people % folds
    if kind == "quantity":
        truth = generator.normal(60, 10, subjects)[people] + generator.normal(size=len(people))
        return Answers(truth, np.round(truth + generator.normal(0, 10, len(people))), names, folds=fold)
    if kind == "labels":
        truth = (generator.random((len(people), 3)) < .4).astype(int)
        truth[:12] = np.arange(12)[:, None] % 2
        scores = np.round(.6 * generator.random(truth.shape) + .3 * truth, 1)
        return Answers(truth, scores, names, ("a", "b", "c"), folds=fold)
    truth = (people // folds) % 2
    p = np.round(.6 * generator.random(len(people)) + .3 * truth, 1)
    return Answers(truth, np.column_stack([1 - p, p]), names, ("no", "yes"), folds=fold)


def measured(name, o): return measure(name, o.truth, o.scores, o.calls, o.folds)


def of_kind(name):
    return "quantity" if name == "r" else "labels" if name.startswith("challenge") else "two"


@quietly
@given(st.integers(0, 10**6))
def test_a_ranking_is_the_mean_of_the_folds_by_what_each_weighs(seed):
    o = asked(seed)
    parts = [o.rows(o.folds == k) for k in range(3)]
    had = np.array([p.truth.sum() for p in parts])
    not_had = np.array([len(p) for p in parts]) - had
    for name, score, worth in (("auroc", roc_auc_score, had * not_had),
                               ("average_precision", average_precision_score, had)):
        each = [score(p.truth, p.scores[:, 1]) for p in parts]
        assert measured(name, o) == pytest.approx(np.average(each, weights=worth), abs=1e-12)
    q = asked(seed, "quantity")
    x, y = (np.concatenate([v[q.folds == k] - v[q.folds == k].mean() for k in range(3)])
            for v in (q.truth, q.scores))
    assert measured("r", q) == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-12)


@pytest.mark.parametrize("name", sorted(RANKINGS))
def test_what_level_a_model_scores_at_is_nothing_to_a_ranking(name):
    o = asked(3, of_kind(name))
    levels = np.array([0, .5, -.7])[o.folds]
    moved = Answers(o.truth, o.scores + (levels[:, None] if o.scores.ndim == 2 else levels), o.subjects,
                    o.classes, folds=o.folds)
    if name == "auroc":
        moved.scores[:, 0] = -moved.scores[:, 1]
        assert measure(name, o.truth, o.scores) != measure(name, o.truth, moved.scores)   # it is, together
    assert measured(name, moved) == pytest.approx(measured(name, o), abs=1e-12)
    draws = resample_answers(o, 20)
    np.testing.assert_allclose(bootstrap(name, moved, draws), bootstrap(name, o, draws), atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(METRICS) - RANKINGS - {"challenge"}))
def test_decisions_errors_and_probabilities_are_counted_over_all_folds(name):
    kind = "quantity" if METRICS[name].kind == "regression" else of_kind(name)
    o = asked(5, kind)
    assert measured(name, o) == measure(name, o.truth, o.scores)


@quietly
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_chance_is_a_half_whatever_the_folds_are(seed, folds):
    generator = np.random.default_rng(seed)
    people, fold = np.arange(40), generator.integers(folds, size=40)
    truth = generator.permutation(40) < 17
    if not any(0 < truth[fold == k].mean() < 1 for k in range(folds)): return
    said = np.array([truth[fold != k].mean() for k in fold])
    o = Answers(truth.astype(int), np.column_stack([1 - said, said]), people.astype(str), ("no", "yes"),
                folds=fold)
    assert measured("auroc", o) == 0.5
    draws = bootstrap("auroc", o, resample_answers(o, 50))
    assert (draws[np.isfinite(draws)] == 0.5).all() and np.isfinite(draws).any()
    age = generator.normal(60, 10, 40)
    guess = Answers(age, np.array([age[fold != k].mean() for k in fold]), people.astype(str), folds=fold)
    assert measured("r", guess) == 0 and (bootstrap("r", guess, resample_answers(guess, 50)) == 0).all()


@quietly
@given(st.integers(0, 10**6))
def test_the_bootstrap_of_folds_equals_an_explicit_loop(seed):
    for name in ("auroc", "subject_auroc", "average_precision", "r", "subject_r", "challenge_auroc",
                 "challenge_auprc"):
        o = asked(seed, of_kind(name.removeprefix("subject_")))
        draws = resample_answers(o, 6, seed)
        if name.startswith("subject_"): o, name = o.by_subject(), name.removeprefix("subject_")
        count = [dict(zip(draws.subjects, w)) for w in draws.weights]
        taken = [np.repeat(np.arange(len(o)), [int(c[s]) for s in o.subjects]) for c in count]
        loop = [measured(name, o.rows(k)) for k in taken]
        np.testing.assert_allclose(bootstrap(name, o, draws), loop, rtol=0, atol=1e-10, err_msg=name)


def test_a_fold_where_nobody_is_ill_says_nothing_and_one_such_alone_is_undefined():
    truth, folds = np.array([0, 1, 0, 1, 0, 0]), np.array([0, 0, 0, 0, 1, 1])
    scores = np.column_stack([np.zeros(6), [.2, .4, .3, .1, .9, .8]])
    assert measure("auroc", truth, scores, folds=folds) == measure("auroc", truth[:4], scores[:4])
    assert np.isnan(measure("auroc", truth, scores, folds=truth))       # each fold holds one class
    ill = np.column_stack([1 - scores[:, 1], truth == 0, scores[:, 1]])[:, 1:]
    name, all_ill = "average_precision", folds                          # in the second fold everybody is ill
    assert measure(name, np.where(folds, 1, truth), ill, folds=all_ill) == measure(name, truth[:4], ill[:4])
    assert np.isnan(measure("r", [1., 1, 2, 2], [1., 2, 3, 4], folds=np.array([0, 0, 1, 1])))


def test_the_area_below_the_curve_is_the_auroc_of_the_folds():
    o = asked(11, subjects=60)
    o.scores[:, 1] += np.array([0, .5, -.7])[o.folds]
    area = np.trapezoid(curve("roc", o, np.ones((len(o), 1)), 2001)[0], dx=1 / 2000)
    assert area == pytest.approx(measured("auroc", o), abs=2e-3)
    assert abs(area - measure("auroc", o.truth, o.scores)) > 5e-3       # and not that of all together
    precision = curve("pr", o, np.ones((len(o), 1)), 2001)[0]
    assert precision.mean() == pytest.approx(measured("average_precision", o), abs=5e-3)
    band = curve_band("pr", {0: o}, resample_answers(o, 30))
    assert (band.low <= band.high).all() and len(band.y) == 101


def frame(folds, seed=0):
    people = np.array(["a", "a", "b", "c"])
    p = np.array([.2, .6, .7, .1])
    return pd.DataFrame(dict(row="r", run="x", seed=seed, fold=folds, window=range(4), subject=people,
                             truth=[0, 0, 1, 0], score_no=1 - p, score_yes=p))


def test_folds_are_read_and_people_keep_theirs_unless_windows_were_split():
    o = read_answers(frame([1, 1, 0, 1]))[0]
    assert o.folds.tolist() == [1, 1, 0, 1] and o.by_subject().folds.tolist() == [1, 0, 1]
    assert o.only(["a"]).folds.tolist() == [1, 1]
    assert read_answers(frame([0, 1, 0, 1]))[0].by_subject().folds is None
    assert read_answers(frame([0, 0, 0, 0]).drop(columns="fold"))[0].folds is None


def test_estimates_and_tables_of_classes_are_within_folds():
    seeds = {k: asked(k, "labels") for k in (0, 1)}
    draws = resample_answers(seeds[0], 10)
    both = Answers(*(getattr(seeds[0], o) for o in ("truth", "scores", "subjects", "classes")))
    found = estimate("challenge_auroc", {0: seeds[0]}, draws).mean
    assert found == measured("challenge_auroc", seeds[0]) != measured("challenge_auroc", both)
    of_classes = per_class({0: seeds[0]}, draws)
    assert of_classes.auroc.mean() == pytest.approx(100 * found)
    assert of_classes.auprc.mean() == pytest.approx(100 * measured("challenge_auprc", seeds[0]))
