"""The judges of many labels at once: against scikit-learn label by label, and what they refuse."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.registry import Task
from biossl.data.errors import MethodError, SplitError
from biossl.data.splits import multilabel_folds
from biossl.train.probe import FEWEST, Scaler, boost_labels, probe, probe_labels

CLASSES = ("a", "b", "c", "never", "always", "once")


def wards(n=40, each=3, d=6, seed=0):
    "Embeddings, truth (three labels to learn, three that cannot be) and subjects."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n * each, d))
    noisy = x[:, :3] + .5 * rng.normal(size=(len(x), 3)) > (0, .5, 1)
    once = np.arange(len(x)) < FEWEST - 1
    truth = np.c_[noisy, np.zeros(len(x)), np.ones(len(x)), once].astype(int)
    return x, truth, np.repeat([f"s{i:02}" for i in range(n)], each)


def log_loss(y, p):
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return -np.mean([np.log(b if a else 1 - b) for a, b in zip(y.ravel(), p.ravel())])


def test_each_label_has_scikit_learns_logistic_regression_and_rare_ones_their_frequency():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    x, truth, subjects = wards()
    done = probe_labels(x[:90], truth[:90], subjects[:90], x[90:], CLASSES, penalties=(.1,))
    assert done.penalty == .1 and done.scores.shape == (30, 6)
    for k in range(3):
        pipe = make_pipeline(StandardScaler(), LogisticRegression(C=.1))
        expected = pipe.fit(x[:90], truth[:90, k]).predict_proba(x[90:])[:, 1]
        np.testing.assert_allclose(done.scores[:, k], expected, atol=1e-4)
    np.testing.assert_allclose(done.scores[:, 3:], np.tile([0, 1, 2 / 90], (30, 1)))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_common_penalty_is_a_grid_search_over_people(seed):
    from sklearn.linear_model import LogisticRegression
    x, truth, subjects = wards(seed=seed)
    truth, candidates = truth[:, :3], (1e-3, .05, 3.0)
    done = probe_labels(x, truth, subjects, x, "abc", penalties=candidates, seed=seed)
    z, fold = Scaler(x)(x), multilabel_folds(subjects, np.c_[truth, truth.sum(1) == 0], 3, seed)
    held = {c: np.zeros(truth.shape) for c in candidates}
    for c in candidates:
        for i in range(3):
            for k in range(3):
                model = LogisticRegression(C=c, max_iter=1000).fit(z[fold != i], truth[fold != i, k])
                held[c][fold == i, k] = model.predict_proba(z[fold == i])[:, 1]
    best = min(candidates, key=lambda c: log_loss(truth, held[c]))
    assert done.penalty == best


def test_a_fingerprint_of_the_person_is_punished():
    "A column that names the person helps within a person only: the strongest penalty must win."
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.random((30, 2)) < .5, 12, axis=0).astype(int)
    x = np.repeat(rng.normal(size=(30, 40)), 12, axis=0)
    people, windows = np.repeat(np.arange(30), 12), np.arange(360)
    chosen = [probe_labels(x, truth, o, x[:1], "ab", penalties=(1e-4, 100.0)).penalty
              for o in (people, windows)]
    assert chosen == [1e-4, 100.0]


def test_a_single_person_leaves_nothing_to_choose_by():
    x, truth, subjects = wards()
    alone = probe_labels(x, truth, ["s"] * len(x), x[:5], CLASSES, penalties=(1e-3, .1, 3.0))
    assert alone.penalty == .1 and np.isfinite(alone.scores).all()


@pytest.mark.parametrize("judge", [probe_labels, boost_labels])
def test_test_windows_do_not_influence_each_other(judge):
    x, truth, subjects = wards()
    whole, one = (judge(x, truth, subjects, o, CLASSES).scores for o in (x[:9], x[3:4]))
    np.testing.assert_allclose(one[0], whole[3], rtol=1e-12)


def test_boosting_is_scikit_learns_and_missing_values_tell():
    from sklearn.ensemble import HistGradientBoostingClassifier
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 2))
    truth = np.c_[np.abs(x[:, 0]) > 1, rng.random(300) < .3].astype(int)   # no line tells the first
    x[truth[:, 1] == 1, 1] = np.nan                                        # a gap tells the second
    done = boost_labels(x[:200], truth[:200], np.arange(200), x[200:], "ab")
    assert (((done.scores > .5) == truth[200:]).mean(0) > .9).all() and np.isnan(done.penalty)
    model = HistGradientBoostingClassifier(max_depth=3, max_bins=32, min_samples_leaf=10,
                                           l2_regularization=1, early_stopping=False)
    expected = model.fit(x[:200], truth[:200, 0]).predict_proba(x[200:])[:, 1]
    np.testing.assert_allclose(done.scores[:, 0], expected, atol=1e-9)


def test_the_probe_hands_many_labels_over_with_the_tasks_classes():
    x, truth, subjects = wards()
    task = Task("dx", "dx", "multilabel", CLASSES)
    done = probe(x, truth, subjects, x[:7], task, penalties=(.1, 1.0), inner=2, seed=4)
    same = probe_labels(x, truth, subjects, x[:7], CLASSES, penalties=(.1, 1.0), inner=2, seed=4)
    np.testing.assert_array_equal(done.scores, same.scores)
    with pytest.raises(SplitError, match="0 test"): probe(x, truth, subjects, x[:0], task)


@pytest.mark.parametrize("judge", [probe_labels, boost_labels])
def test_what_are_no_labels_is_refused(judge):
    x, truth, subjects = wards()
    refuse = [(truth[:, 0], MethodError, "not \\(N, K\\)"), (truth[:, :5], MethodError, "shape"),
              (truth - 1, MethodError, "neither 0 nor 1"), (truth * 0, SplitError, "none of 6"),
              (np.where(truth, np.nan, truth), MethodError, "neither 0 nor 1")]
    for wrong, error, words in refuse:
        with pytest.raises(error, match=words): judge(x, wrong, subjects, x, CLASSES)
    with pytest.raises(MethodError, match="subjects"): judge(x, truth, subjects[:9], x, CLASSES)
    with pytest.raises(MethodError, match="infinite"):
        judge(np.where(x > 2, np.inf, x), truth, subjects, x, CLASSES)


@settings(deadline=None, max_examples=15)
@given(people=st.integers(2, 12), each=st.integers(1, 4), k=st.integers(1, 5),
       seed=st.integers(0, 99))
def test_whatever_the_labels_a_probability_comes_back_or_a_reason(people, each, k, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(people * each, 3))
    truth = (rng.random((len(x), k)) < rng.random(k)).astype(int)
    try: done = probe_labels(x, truth, np.repeat(np.arange(people), each), x, range(k), seed=seed)
    except SplitError as e: assert "labels" in str(e) and (truth.sum(0) < FEWEST).any() or (
        (len(x) - truth.sum(0)) < FEWEST).any()
    else:
        assert done.scores.shape == truth.shape
        assert ((done.scores >= 0) & (done.scores <= 1)).all()
