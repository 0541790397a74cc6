"""Metrics against plain float64 formulas, worked numbers, and answers that cannot be judged."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.challenge import (auroc_official, challenge_metrics, class_f2,
                                         f1_macro_official, f_beta)
from biossl.evaluation.metrics import (METRICS, decide, find_metric, mean_batch_accuracy, measure,
                                       metric_title, unjudged)

quietly = settings(deadline=None, max_examples=60)


def plain_confusion(truth, hard, classes):
    table = np.zeros((classes, classes))
    for t, h in zip(truth, hard): table[t, h] += 1
    return table


def plain_prf(table, k):
    "Precision, recall, F1 of class k from a confusion table."
    hit, chosen, support = table[k, k], table[:, k].sum(), table[k].sum()
    p, r = hit / chosen if chosen else 0.0, hit / support if support else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


def plain_auroc(member, score):
    "The share of pairs in which the member scores higher; ties count half."
    pairs = [(a > b) + 0.5 * (a == b) for a in score[member] for b in score[~member]]
    return float(np.mean(pairs)) if pairs else np.nan


def plain_average_precision(member, score):
    "Sum over thresholds of the step in recall times the precision there."
    total, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        recall = (member & chosen).sum() / member.sum()
        total += (recall - before) * (member & chosen).sum() / chosen.sum()
        before = recall
    return total


@st.composite
def answers(draw, most=4):
    "Truth and coarse scores (many ties), with every class present once at least."
    k, n = draw(st.integers(2, most)), draw(st.integers(0, 40))
    truth = np.r_[np.arange(k), draw(arrays(int, n, elements=st.integers(0, k - 1)))]
    scores = draw(arrays(float, (n + k, k), elements=st.integers(0, 5).map(lambda o: o / 5)))
    return truth, scores


WORKED = dict(precision=.897436, recall=.875, f1=.886076, precision_macro=.907734,
              recall_macro=.904167, f1_macro=.905848, precision_weighted=.909794,
              recall_weighted=.91, f1_weighted=.909802, accuracy=.91, mcc=.811893)


@pytest.mark.parametrize("name", WORKED)
def test_worked_example_of_a_hundred_windows(name):
    truth = np.repeat([1, 1, 0, 0], [35, 5, 4, 56])
    scores = np.eye(2)[np.repeat([1, 0, 1, 0], [35, 5, 4, 56])]
    assert measure(name, truth, scores) == pytest.approx(WORKED[name], abs=5e-7)


def test_worked_example_of_six_scores():
    truth, score = np.array([1, 1, 0, 1, 0, 0]), np.array([.9, .8, .7, .6, .55, .4])
    scores = np.column_stack([1 - score, score])
    assert measure("auroc", truth, scores) == pytest.approx(.888889, abs=5e-7)
    assert measure("average_precision", truth, scores) == pytest.approx(.916667, abs=5e-7)


def test_auroc_of_decided_classes_is_the_mean_of_sensitivity_and_specificity():
    truth = np.repeat([1, 1, 0, 0], [35, 5, 4, 56])
    score = np.repeat([.8, .3, .6, .1], [35, 5, 4, 56])
    scores = np.column_stack([1 - score, score])
    assert measure("auroc_hard", truth, scores) == pytest.approx((35 / 40 + 56 / 60) / 2, abs=1e-12)
    assert measure("auroc", truth, scores) > measure("auroc_hard", truth, scores)


@quietly
@given(answers())
def test_decided_metrics_equal_plain_formulas(given):
    truth, scores = given
    classes = scores.shape[1]
    hard = np.array([max(range(classes), key=lambda k: (row[k], -k)) for row in scores])
    assert (decide(truth, scores) == hard).all()
    table = plain_confusion(truth, hard, classes)
    per_class = np.array([plain_prf(table, k) for k in range(classes)])
    share = table.sum(axis=1) / table.sum()
    for name, values in zip(("precision", "recall", "f1"), per_class.T):
        assert measure(f"{name}_macro", truth, scores) == pytest.approx(values.mean())
        assert measure(f"{name}_weighted", truth, scores) == pytest.approx(share @ values)
        if classes == 2: assert measure(name, truth, scores) == pytest.approx(values[1])
    assert measure("accuracy", truth, scores) == pytest.approx(np.trace(table) / table.sum())
    assert measure("balanced_accuracy", truth, scores) == pytest.approx(per_class[:, 1].mean())


@quietly
@given(answers())
def test_ranking_metrics_equal_plain_formulas(given):
    truth, scores = given
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    for name, plain in (("auroc", plain_auroc), ("average_precision", plain_average_precision)):
        expected = np.mean([plain(truth == k, scores[:, k]) for k in classes])
        assert measure(name, truth, scores) == pytest.approx(expected, abs=1e-12)


@quietly
@given(answers(most=2))
def test_brier_and_mcc_equal_plain_formulas(given):
    truth, scores = given
    brier = sum((p - t)**2 for p, t in zip(scores[:, 1], truth)) / len(truth)
    assert measure("brier", truth, scores) == pytest.approx(brier)
    (tn, fp), (fn, tp) = plain_confusion(truth, decide(truth, scores), 2)
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    mcc = (tp * tn - fp * fn) / below if below else 0
    assert measure("mcc", truth, scores) == pytest.approx(mcc)


@quietly
@given(st.lists(st.tuples(st.integers(40, 180), st.integers(40, 180)), min_size=3, max_size=30))
def test_quantities_equal_plain_formulas(pairs):
    truth, said = np.array(pairs, float).T
    error = [b - a for a, b in pairs]
    assert measure("mae", truth, said) == pytest.approx(sum(map(abs, error)) / len(error))
    squares = sum(e * e for e in error)
    assert measure("rmse", truth, said) == pytest.approx((squares / len(error))**.5)
    assert measure("bias", truth, said) == pytest.approx(sum(error) / len(error))
    a, b = truth - truth.mean(), said - said.mean()
    spread = np.sqrt((a @ a) * (b @ b))
    if np.ptp(truth) and np.ptp(said): assert measure("r", truth, said) == pytest.approx(a @ b / spread, abs=1e-12)
    elif np.ptp(truth): assert measure("r", truth, said) == 0     # it says nothing
    else: assert np.isnan(measure("r", truth, said))


def test_an_absent_class_is_named_and_left_out():
    truth = np.array([0, 0, 2, 2])
    scores = np.eye(3)[[0, 1, 2, 2]]  # one window is taken for the class that nobody has
    assert unjudged(truth, ("sinus", "flutter", "af")) == ("flutter",)
    assert measure("recall_macro", truth, scores) == pytest.approx((0.5 + 1) / 2)
    assert measure("f1_macro", truth, scores) == pytest.approx((2 / 3 + 1) / 2)
    assert measure("auroc", truth, scores) == pytest.approx((0.75 + 1) / 2)


def test_one_of_many_labels_with_too_few_positives_is_left_out_and_named():
    generator = np.random.default_rng(1)
    truth = np.zeros((40, 3), int)
    truth[:20, 0], truth[::3, 1], truth[:4, 2] = 1, 1, 1
    scores = generator.random((40, 3))
    expected = np.mean([plain_auroc(truth[:, k] == 1, scores[:, k]) for k in (0, 1)])
    assert measure("auroc", truth, scores) == pytest.approx(expected, abs=1e-12)
    assert unjudged(truth, ("a", "b", "rare")) == ("rare",)
    truth[:5, 2] = 1
    assert unjudged(truth, ("a", "b", "rare")) == ()


def test_the_challenges_metrics_look_at_calls_or_at_scores():
    generator = np.random.default_rng(2)
    y = (generator.random((60, 24)) < .2).astype(int)
    s = np.clip(.4 * y + .7 * generator.random(y.shape), 0, 1)
    calls = (s >= .3).astype(int)
    for name, value in challenge_metrics(y, s, calls).items():
        assert measure(name, y, s, calls) == value
    assert measure("challenge_f2", y, s) == f_beta(y, s >= .5)
    assert measure("f1_macro", y, s, calls) == pytest.approx(f1_macro_official(y, calls))
    assert measure("challenge_auroc", y, s, calls) == measure("challenge_auroc", y, s, 1 - calls)


def test_means_over_common_classes_leave_the_rare_out():
    y, s = np.zeros((40, 3), int), np.random.default_rng(3).random((40, 3))
    y[:20, 0], y[:10, 1], y[:9, 2] = 1, 1, 1
    assert measure("challenge_auroc_common", y, s) == auroc_official(y[:, :2], s[:, :2])
    assert measure("challenge_f1_common", y, s) == f1_macro_official(y[:, :2], s[:, :2] >= .5)
    calls = y.copy()
    calls[0, 2] = 0    # wrong of a rare class alone
    assert measure("challenge_accuracy_common", y, s, calls) == 1
    assert measure("challenge_accuracy", y, s, calls) == 39 / 40
    f2 = class_f2(y, calls)   # the rare class still counts among a recording's diagnoses
    assert measure("challenge_f2_common", y, s, calls) == f2[:2].mean()
    assert all(np.isnan(measure(o, y[:5], s[:5])) for o in METRICS if o.endswith("_common"))


def test_one_class_alone_has_no_ranking():
    scores = np.column_stack([[.2, .6], [.8, .4]])
    assert np.isnan(measure("auroc", np.array([1, 1]), scores))
    assert np.isnan(measure("average_precision", np.array([0, 0]), scores))
    assert measure("accuracy", np.array([1, 1]), scores) == 0.5


@pytest.mark.parametrize("name, truth, scores", [
    ("auroq", [0, 1], np.eye(2)), ("mae", [0, 1], np.eye(2)), ("auroc", [0., 1.], np.zeros(2)),
    ("f1", [0, 1, 2], np.eye(3)), ("brier", [0, 1, 2], np.eye(3)), ("accuracy", [0], np.eye(2)),
    ("accuracy", np.zeros(0, int), np.zeros((0, 2))), ("mcc", np.eye(2, dtype=int), np.eye(2)),
    ("precision", np.eye(2, dtype=int), np.eye(2)), ("challenge", [0, 1], np.eye(2)),
    ("challenge_auroc", [0, 1], np.eye(2)), ("challenge", np.eye(2, dtype=int), np.eye(2))])
def test_what_does_not_fit_is_refused(name, truth, scores):
    with pytest.raises(RequestError): measure(name, truth, scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(MethodError, match="finite"):
        measure("accuracy", [0, 1], [[.1, .9], [bad, 0]])


def test_the_mean_over_batches_is_not_the_accuracy():
    right = np.r_[np.ones(33), np.zeros(2)]
    assert mean_batch_accuracy(np.ones(35), right) == pytest.approx(.777778, abs=5e-7)
    assert right.mean() == pytest.approx(.942857, abs=5e-7)


def test_a_name_says_its_level():
    assert find_metric("subject_auroc") == (METRICS["auroc"], "subject")
    assert find_metric("auroc")[1] == "window"
    assert metric_title("subject_f1_macro") == "Macro F1 (subjects)"
    with pytest.raises(RequestError, match="auroc"): find_metric("subject_auroq")
