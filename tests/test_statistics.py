"""The bootstrap against an explicit loop over resampled windows, and what differences must obey."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.cohorts.statements import CLASSES
from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.challenge import (class_auprc, class_auroc, class_f1, class_f2, class_g2)
from biossl.evaluation.metrics import METRICS, decide, measure
from biossl.evaluation.statistics import (Answers, Resamples, bootstrap, curve, curve_band,
                                          class_draws, detectable_difference, difference, estimate,
                                          middle, per_class, read_answers, resample_all,
                                          resample_answers, resample_subjects, subject_scores)

quietly = settings(deadline=None, max_examples=10)
BINARY = [o.name for o in METRICS.values() if o.kind in ("hard", "scores")]
MANY = [o for o in BINARY if o not in ("precision", "recall", "f1", "brier")]
QUANTITY = [o.name for o in METRICS.values() if o.kind == "regression"]
LABELS = [o.name for o in METRICS.values() if o.kind in ("ranks", "calls")]


def classed(seed, classes=2, subjects=12, mixed=True, levels=8):
    "Answers of subjects with 1 to 9 windows, some of several classes, and scores with ties."
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 10, subjects)
    people = np.repeat([f"s{k}" for k in range(subjects)], lengths)
    truth = np.repeat(np.arange(subjects) % classes, lengths)
    other = generator.integers(classes, size=len(truth))
    if mixed: truth = np.where(generator.random(len(truth)) < .2, other, truth)
    raw = generator.random((len(truth), classes)) + .3 * np.eye(classes)[truth]
    raw = np.round(levels * raw) / levels + .01
    scores = raw / raw.sum(axis=1, keepdims=True)
    order, names = generator.permutation(len(truth)), tuple(f"c{k}" for k in range(classes))
    return Answers(truth[order], scores[order], people[order], names)


def quantities(seed, subjects=9):
    one = classed(seed, subjects=subjects)
    generator = np.random.default_rng(seed + 1)
    truth = 70 + 20 * generator.random(len(one))
    return Answers(truth, truth + generator.normal(3, 5, len(one)), one.subjects)


def labelled(seed):
    one = classed(seed, subjects=30)
    generator = np.random.default_rng(seed + 1)
    truth = (generator.random((len(one), 3)) < (.4, .5, 0)).astype(int)
    truth[:2, 2] = 1
    return Answers(truth, np.round(generator.random(truth.shape) + .3 * truth, 1), one.subjects,
                   ("a", "b", "rare"))


def windows_of(answers, resamples, b):
    "The windows of resample b, written out: each subject's as often as it was drawn."
    count = dict(zip(resamples.subjects, resamples.weights[b]))
    return np.repeat(np.arange(len(answers)), [int(count[o]) for o in answers.subjects])


def by_loop(name, answers, resamples):
    taken = [windows_of(answers, resamples, b) for b in range(len(resamples.weights))]
    calls = [None if answers.calls is None else answers.calls[k] for k in taken]
    return [measure(name, answers.truth[k], answers.scores[k], c) for k, c in zip(taken, calls)]


def diagnosed(seed, subjects=20):
    """Answers of the challenge's 24 classes with calls at thresholds of their own.

    Some classes nobody has, one everybody has, one is rare (below the ten of a common one).
    """
    generator = np.random.default_rng(seed)
    people = np.repeat([f"s{k}" for k in range(subjects)], generator.integers(1, 4, subjects))
    prevalence = generator.choice([0, .05, .3, .5], 24)
    prevalence[:3] = 0, 1, .6
    truth = (generator.random((len(people), 24)) < prevalence).astype(int)
    truth[:, 3] = np.arange(len(people)) < 3
    scores = np.round(.6 * generator.random(truth.shape) + .3 * truth, 1)
    calls = (scores >= generator.choice([.1, .2, .3, .4, .5], 24)).astype(int)
    return Answers(truth, scores, people, CLASSES, calls)


def restricted(name, answers, resamples):
    "The common classes' metric by loops, the classes settled beforehand by everybody."
    keep, plain = answers.truth.sum(axis=0) >= 10, name.split("_")[1]
    values = []
    for b in range(len(resamples.weights)):
        k = windows_of(answers, resamples, b)
        y, said = answers.truth[k], (answers.scores if plain[:2] == "au" else answers.calls)[k]
        if plain == "accuracy": values.append((y == said)[:, keep].all(axis=1).mean())
        else: values.append(np.nanmean(OF_CLASSES[plain](y, said)[keep]))
    return values


OF_CLASSES = dict(auroc=class_auroc, auprc=class_auprc, f1=class_f1, f2=class_f2, g2=class_g2)


@quietly
@given(st.integers(0, 10**6))
def test_bootstrap_of_two_classes_equals_an_explicit_loop(seed):
    answers = classed(seed)
    draws = resample_answers(answers, 6, seed)
    for name in BINARY:
        np.testing.assert_allclose(bootstrap(name, answers, draws), by_loop(name, answers, draws),
                                   rtol=0, atol=1e-12, err_msg=name)


@quietly
@given(st.integers(0, 10**6), st.integers(3, 5))
def test_bootstrap_of_many_classes_equals_an_explicit_loop(seed, classes):
    answers = classed(seed, classes)
    draws = resample_answers(answers, 4, seed)
    for name in MANY:
        np.testing.assert_allclose(bootstrap(name, answers, draws), by_loop(name, answers, draws),
                                   rtol=0, atol=1e-12, err_msg=name)


@quietly
@given(st.integers(0, 10**6))
def test_bootstrap_of_quantities_equals_an_explicit_loop(seed):
    answers = quantities(seed)
    draws = resample_answers(answers, 6, seed)
    for name in QUANTITY:
        np.testing.assert_allclose(bootstrap(name, answers, draws), by_loop(name, answers, draws),
                                   rtol=0, atol=1e-10, err_msg=name)


@quietly
@given(st.integers(0, 10**6))
def test_bootstrap_of_many_labels_equals_an_explicit_loop(seed):
    answers = labelled(seed)
    draws = resample_answers(answers, 4, seed)
    for name in ("accuracy", "f1_macro", "recall_weighted"):
        np.testing.assert_allclose(bootstrap(name, answers, draws), by_loop(name, answers, draws),
                                   rtol=0, atol=1e-12, err_msg=name)
    frequent = Answers(answers.truth[:, :2], answers.scores[:, :2], answers.subjects, ("a", "b"))
    loop = by_loop("auroc", frequent, draws)  # "rare" is left out of every resample
    np.testing.assert_allclose(bootstrap("auroc", answers, draws), loop, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_bootstrap_of_the_challenges_metrics_equals_an_explicit_loop(seed):
    answers = diagnosed(seed)
    draws = resample_answers(answers, 4, seed)
    for name in LABELS:
        loop = restricted if name.endswith("_common") else by_loop
        np.testing.assert_allclose(bootstrap(name, answers, draws), loop(name, answers, draws),
                                   rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", LABELS)
def test_everybody_once_is_the_challenges_metric_itself(name):
    answers = diagnosed(7)
    once = Resamples(np.unique(answers.subjects), np.ones((1, 20), np.uint16))
    value = measure(name, answers.truth, answers.scores, answers.calls)
    assert bootstrap(name, answers, once)[0] == pytest.approx(value, abs=1e-12)
    people = answers.by_subject()
    value = measure(name, people.truth, people.scores, people.calls)
    assert bootstrap(f"subject_{name}", answers, once)[0] == pytest.approx(value, abs=1e-12)


def test_calls_go_along_with_their_people():
    answers = diagnosed(1)
    assert (answers.decided == answers.calls).all()
    few = answers.only(["s1", "s3"])
    assert (few.calls == answers.calls[np.isin(answers.subjects, ["s1", "s3"])]).all()
    people = answers.by_subject()   # called where at least half of the recordings are
    for name, calls in zip(people.subjects, people.calls):
        own = answers.calls[answers.subjects == name]
        assert (calls == (2 * own.sum(axis=0) >= len(own))).all()
    at_half = Answers(answers.truth, answers.scores, answers.subjects, CLASSES)
    assert (at_half.decided == (answers.scores >= .5)).all() and at_half.by_subject().calls is None
    right = Answers(answers.truth, answers.scores, answers.subjects, CLASSES, answers.truth)
    drawn = resample_answers(right, 5)
    assert (bootstrap("challenge_accuracy", right, drawn) == 1).all()
    assert (bootstrap("accuracy", right, drawn) == 1).all()   # plain metrics look at calls, too


def test_single_classes_stand_in_a_table_with_intervals():
    runs = {seed: diagnosed(seed) for seed in (3, 4)}
    runs[4] = Answers(runs[3].truth, runs[3].scores[::-1].copy(), runs[3].subjects, CLASSES,
                      runs[3].calls)
    drawn = resample_all(runs.values(), 40)
    frame = per_class(runs, drawn)
    assert frame.index.tolist() == list(CLASSES)
    assert frame.positives.tolist() == runs[3].truth.sum(axis=0).tolist()
    one, other = (class_auprc(o.truth, o.scores) for o in runs.values())
    np.testing.assert_allclose(frame.auprc, 50 * (one + other), atol=1e-12)
    np.testing.assert_allclose(frame.f1, 100 * class_f1(runs[3].truth, runs[3].calls), atol=1e-12)
    assert frame.loc["IAVB"].drop(["positives", "f1", "f1_low", "f1_high"]).isna().all()
    weights = [windows_of(runs[3], drawn, b) for b in range(40)]
    loop = np.mean([[class_auroc(o.truth[k], o.scores[k])[2] for k in weights]
                    for o in runs.values()], axis=0)
    assert (frame.auroc_low["AFL"], frame.auroc_high["AFL"]) == pytest.approx(
        [100 * o for o in middle(loop)])


def test_what_is_kept_of_single_classes_belongs_to_its_answers():
    one, other = diagnosed(5), diagnosed(6)
    drawn = resample_all([one, other], 10)
    first, second = (class_draws("f1", o, drawn).copy() for o in (one, other))
    assert not np.array_equal(first, second, equal_nan=True)
    fresh = resample_all([one, other], 10)
    np.testing.assert_array_equal(class_draws("f1", other, fresh), second)
    np.testing.assert_array_equal(class_draws("f1", one, drawn), first)


def test_bootstrap_equals_scikit_learns_weights():
    from sklearn.metrics import average_precision_score, roc_auc_score
    answers = classed(3, subjects=35, levels=1000)
    draws = resample_answers(answers, 40)
    of_window = draws.weights[:, draws.index(answers)]
    for name, score in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        theirs = [score(answers.truth, answers.scores[:, 1], sample_weight=o) for o in of_window]
        np.testing.assert_allclose(bootstrap(name, answers, draws), theirs, rtol=0, atol=1e-12)


def test_chunks_do_not_change_the_result():
    answers = classed(5)
    draws = resample_answers(answers, 50)
    whole = np.concatenate(list(draws.chunks(answers)), axis=1)
    parts = list(draws.chunks(answers, budget=3 * len(answers)))
    assert len(parts) == 17 and (np.concatenate(parts, axis=1) == whole).all()


def test_resamples_keep_every_stratum_and_are_the_same_for_the_same_seed():
    names, strata = [f"s{k}" for k in range(35)], [1] * 19 + [0] * 16
    draws = resample_subjects(names, strata, 300, seed=4)
    order = np.argsort(names)
    for stratum, size in ((1, 19), (0, 16)):
        assert (draws.weights[:, np.array(strata)[order] == stratum].sum(axis=1) == size).all()
    assert draws.weights.mean(axis=0) == pytest.approx(1, abs=.3)
    assert (draws.weights == resample_subjects(names, strata, 300, seed=4).weights).all()
    assert (draws.weights != resample_subjects(names, strata, 300, seed=5).weights).any()
    shuffled = resample_subjects(np.array(names)[::-1], strata[::-1], 300, seed=4)
    assert (shuffled.weights == draws.weights).all() and (shuffled.subjects == draws.subjects).all()


def test_a_subject_of_both_classes_belongs_to_the_stratum_of_most_windows():
    answers = Answers(np.array([1, 1, 0, 0, 1, 0]), np.eye(2)[[1, 1, 0, 0, 1, 0]],
                      np.array(list("aaabcc")), ("no", "yes"))
    draws = resample_answers(answers, 200)  # a: yes; b: no; c is even: the first class, no
    assert (draws.weights[:, 0] == 1).all() and (draws.weights[:, 1:].sum(axis=1) == 2).all()


def test_windows_of_one_person_do_not_narrow_the_interval():
    one = classed(0, subjects=20, mixed=False)
    many = Answers(*(np.repeat(o, 8, axis=0) for o in (one.truth, one.scores, one.subjects)),
                   one.classes)
    for name in ("auroc", "f1_macro", "accuracy"):
        a, b = (estimate(name, {0: o}, resample_answers(o, 300)) for o in (one, many))
        assert a.mean == pytest.approx(b.mean) and a.interval == pytest.approx(b.interval)


def test_mean_sd_and_n():
    seeds = {k: Answers(classed(1).truth, classed(1).scores[:, ::(1, -1)[k]], classed(1).subjects,
                        ("a", "b")) for k in (0, 1)}
    values = [measure("accuracy", o.truth, o.scores) for o in seeds.values()]
    both = estimate("accuracy", seeds, resample_answers(seeds[0], 20))
    assert both.mean == pytest.approx(sum(values) / 2) and both.n == 12
    assert both.sd == pytest.approx(abs(values[0] - values[1]) / 2**.5)
    assert np.isnan(estimate("accuracy", {0: seeds[0]}, resample_answers(seeds[0], 20)).sd)


def test_the_interval_of_a_mean_agrees_with_theory():
    generator = np.random.default_rng(0)
    share = np.clip(generator.normal(.7, .1, 200), 0, 1)
    people = np.repeat(np.arange(200).astype(str), 50)
    right = (generator.random(10_000) < np.repeat(share, 50)).astype(int)
    answers = Answers(np.ones(10_000, int), np.eye(2)[right], people, ("no", "yes"))
    low, high = estimate("accuracy", {0: answers}, resample_answers(answers)).interval
    scatter = np.std([right[people == o].mean() for o in np.unique(people)], ddof=1)
    assert (high - low) / 2 == pytest.approx(detectable_difference(200, scatter), rel=.08)


def test_what_a_cohort_can_resolve():
    assert 100 * detectable_difference(35, .2) == pytest.approx(6.6, abs=.05)
    assert detectable_difference(140, .2) == pytest.approx(detectable_difference(35, .2) / 2)


@quietly
@given(st.integers(0, 10**6))
def test_a_difference_changes_sign_with_its_sides(seed):
    one, other = classed(seed), classed(seed)
    other = Answers(one.truth, one.scores[:, ::-1], one.subjects, one.classes)
    draws = resample_answers(one, 99)
    a, b = (estimate("auroc", {0: o}, draws) for o in (one, other))
    there, back = difference(a, b), difference(b, a)
    assert there.value == -back.value and there.p == back.p and 0 < there.p <= 1
    assert there.low == pytest.approx(-back.high) and there.high == pytest.approx(-back.low)


def test_a_row_does_not_differ_from_itself_and_a_clear_lead_is_clear():
    answers = classed(2, subjects=40)
    draws = resample_answers(answers, 999)
    good = estimate("auroc", {0: answers}, draws)
    same = difference(good, good)
    assert same == type(same)(0.0, 0.0, 0.0, 1.0)
    wrong = Answers(answers.truth, answers.scores[:, ::-1], answers.subjects, answers.classes)
    lead = difference(good, estimate("auroc", {0: wrong}, draws))
    assert lead.low > 0 and lead.p == pytest.approx(2 / 1000)


def test_pairing_narrows_a_difference():
    "Two rows that fail on the same people: their difference is surer than of strangers."
    generator = np.random.default_rng(3)
    people = np.repeat(np.arange(40).astype(str), 25)
    ease = np.repeat(generator.uniform(.4, 1, 40), 25)
    right = [(generator.random(1000) < ease - k).astype(int) for k in (0, .05)]
    rows = [Answers(np.ones(1000, int), np.eye(2)[o], people, ("no", "yes")) for o in right]
    draws = resample_answers(rows[0], 1000)
    a, b = (estimate("accuracy", {0: o}, draws) for o in rows)
    lead = difference(a, b)
    low, high = middle(a.draws - generator.permutation(b.draws))
    assert lead.high - lead.low < .7 * (high - low)


def test_different_resamples_are_not_compared():
    answers = classed(0)
    a, b = (estimate("auroc", {0: answers}, resample_answers(answers, n)) for n in (10, 11))
    with pytest.raises(RequestError, match="same resamples"): difference(a, b)


def test_unknown_subjects_are_refused():
    answers = classed(0)
    few = resample_answers(answers.only(["s1", "s2"]), 10)
    with pytest.raises(RequestError, match="subjects"): bootstrap("accuracy", answers, few)


def test_an_undefined_metric_has_no_interval():
    people = np.array(list("aabb"))
    one_class = Answers(np.ones(4, int), np.tile([.3, .7], (4, 1)), people, ("n", "y"))
    found = estimate("auroc", {0: one_class}, resample_answers(one_class, 10))
    assert np.isnan(found.mean) and np.isnan(found.interval).all()
    assert np.isnan(difference(found, found).p)
    assert np.isnan(middle(np.full(3, np.nan))).all()


def test_subject_level_is_the_mean_score_at_one_half():
    answers = Answers(np.array([1, 1, 1, 0, 0]),
                      np.array([[.9, .1], [.4, .6], [.1, .9], [.2, .8], [.7, .3]]),
                      np.array(["a", "a", "a", "b", "b"]), ("no", "yes"))
    draws = resample_answers(answers, 5)  # a: 1.6/3 = .533, yes; b: .55, yes as well
    assert estimate("subject_accuracy", {0: answers}, draws).mean == 0.5
    assert estimate("accuracy", {0: answers}, draws).mean == pytest.approx(3 / 5)
    assert estimate("subject_auroc", {0: answers}, draws).mean == 0.0
    loop = by_loop("accuracy", answers.by_subject(), draws)
    assert (bootstrap("subject_accuracy", answers, draws) == loop).all()


# ---- curves

def plain_roc(truth, score):
    "Points (false alarms, recall) at every threshold, from none to all."
    steps = [(0., 0.)]
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        steps.append(((chosen & (truth == 0)).sum() / (truth == 0).sum(),
                      (chosen & (truth == 1)).sum() / (truth == 1).sum()))
    return np.array(steps).T


def test_roc_curves_equal_plain_ones():
    answers = classed(7)
    draws = resample_answers(answers, 5)
    grid = np.linspace(0, 1, 101)
    weights = np.concatenate(list(draws.chunks(answers)), axis=1)
    for b, found in enumerate(curve("roc", answers, weights)):
        k = windows_of(answers, draws, b)
        false, hits = plain_roc(answers.truth[k], answers.scores[k, 1])
        np.testing.assert_allclose(found, np.interp(grid, false, hits), atol=1e-12)


def test_precision_is_read_by_the_step_rule():
    answers = classed(8)
    truth, score = answers.truth, answers.scores[:, 1]
    found = curve("pr", answers, np.ones((len(answers), 1)))[0]
    for recall, precision in zip(np.linspace(0, 1, 101), found):
        fitting = [t for t in sorted(set(score), reverse=True)
                   if (truth[score >= t] == 1).sum() / (truth == 1).sum() >= recall - 1e-12]
        assert precision == pytest.approx((truth[score >= fitting[0]] == 1).mean())


def test_a_band_encloses_its_curve_and_widens_with_fewer_people():
    widths = []
    for subjects in (10, 80):
        answers = classed(1, subjects=subjects, levels=1000)
        band = curve_band("roc", {0: answers}, resample_answers(answers, 200))
        assert (band.low <= band.y + 1e-9).all() and (band.y <= band.high + 1e-9).all()
        widths.append((band.high - band.low).mean())
    assert widths[0] > widths[1]


def test_curves_are_for_two_classes():
    with pytest.raises(RequestError): curve("roc", classed(0, 3), np.ones((1, 1)))
    with pytest.raises(RequestError): curve("lift", classed(0), np.ones((1, 1)))


# ---- reading a predictions frame

def predictions(seeds=(0, 1), **changes):
    frame = pd.DataFrame(dict(run="r", row="Row one", fold=[0, 0, 1, 1], seed=0, window=range(4),
                              recording="x", subject=list("aabb"), truth=[0, 1, 1, 0],
                              score_sinus=[.9, .2, .4, .8], score_af=[.1, .8, .6, .2]))
    return pd.concat([frame.assign(seed=o) for o in seeds], ignore_index=True).assign(**changes)


@pytest.mark.parametrize("truth", [[0, 1, 1, 0], [0., 1., 1., 0.], ["sinus", "af", "af", "sinus"],
                                   [False, True, True, False]])
def test_truths_may_be_names_or_numbers(truth):
    found = read_answers(predictions(truth=truth * 2))
    assert found[1].truth.tolist() == [0, 1, 1, 0] and found[0].classes == ("sinus", "af")


def test_a_class_called_one_is_found_by_its_name():
    frame = predictions(truth=[1., 2., 2., 1.] * 2)
    frame = frame.rename(columns=dict(score_sinus="score_1", score_af="score_2"))
    assert read_answers(frame)[0].truth.tolist() == [0, 1, 1, 0]


def test_score_columns_of_other_tasks_are_not_classes():
    assert read_answers(predictions(score_false=np.nan))[0].classes == ("sinus", "af")


def test_quantities_have_one_score():
    frame = predictions(score=[60., 70., 80., 90.] * 2, truth=[61., 70., 81., 90.] * 2)
    frame = frame.drop(columns=["score_sinus", "score_af"])
    assert read_answers(frame)[0].scores.shape == (4,)


def test_many_labels_have_one_truth_each():
    frame = predictions(truth_sinus=[1, 0, 1, 0] * 2, truth_af=[1, 1, 1, 0] * 2)
    assert read_answers(frame)[0].truth.tolist() == [[1, 1], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("changes, says", [
    (dict(score_af=[.1, np.nan, .6, .2] * 2), "seed 0, 1"), (dict(window=0), "twice"),
    (dict(truth=["sinus", "af", "flutter", "af"] * 2), "truth"), (dict(truth=np.nan), "truth")])
def test_what_cannot_be_judged_is_an_error_that_names_the_row(changes, says):
    with pytest.raises(MethodError, match=f"Row one.*{says}"): read_answers(predictions(**changes))


def test_no_predictions_are_an_error():
    with pytest.raises(MethodError, match="no predictions"): read_answers(predictions().iloc[:0])


def test_people_one_line_each():
    frame = subject_scores(predictions())
    assert frame[["seed", "subject", "windows"]].values.tolist() == [
        [0, "a", 2], [0, "b", 2], [1, "a", 2], [1, "b", 2]]
    assert frame.score_af.tolist() == pytest.approx([.45, .4] * 2)
    assert frame.accuracy.tolist() == [1, 1, 1, 1]
    one = predictions(seeds=[0])
    wrong = subject_scores(one.assign(score_af=1 - one.score_af, score_sinus=1 - one.score_sinus))
    assert (wrong.accuracy == 0).all() and (decide(np.array([1]), np.array([[.5, .5]])) == 0).all()
