"""Pairs of ECG and PPG from several cohorts: one deal for all tasks, who is kept, what is refused."""
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import SplitError
from biossl.data.splits import assert_disjoint, cohort_folds

# ---- one fold for each person of a whole cohort

CLASSES = ["a/x", "a/y", "b/x", "b/rare", "b/rarer", "c"]


@st.composite
def people(draw):
    "Who, and of which class: windows in any order, now and then without a stratum."
    each = draw(st.lists(st.sampled_from(CLASSES), min_size=6, max_size=60))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    count = random.integers(1, 5, len(each))
    order = random.permutation(count.sum())
    names = np.repeat([f"p{i}" for i in range(len(each))], count)[order]
    strata = np.repeat(np.array(each, object), count)[order]
    known = {name: i for i, name in enumerate(names.tolist())}.values()   # one window of each
    strata[[i for i in range(len(names)) if i not in known and random.random() < 0.3]] = None
    return names, strata, dict(zip(names[list(known)], strata[list(known)]))


@settings(deadline=None, max_examples=40)
@given(made=people(), folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_everybody_has_one_fold_and_classes_that_can_are_spread(made, folds, seed):
    names, strata, of_person = made
    fold = cohort_folds(names, strata, folds, seed)
    of = dict(zip(names.tolist(), fold.tolist()))
    assert all(of[name] == f for name, f in zip(names.tolist(), fold.tolist()))
    for k in range(folds): assert_disjoint(names[fold != k], names[fold == k])
    count = Counter(of_person.values())
    for label in [o for o in count if count[o] >= folds]:
        held = Counter(of[name] for name, o in of_person.items() if o == label)
        held = [held[k] for k in range(folds)]
        assert max(held) - min(held) <= 1
    size = Counter(of.values())
    assert max(size.values()) - min(size.values()) <= 1


def test_small_classes_are_dealt_out_with_their_source():
    "Six people of six classes are one class of six; left alone, each would be dealt by chance."
    strata = np.array(["b/0"] + ["a/x"] * 29 + ["b/1"] + ["c/x"] * 20 + [f"b/{o}" for o in "2345"])
    small = np.char.startswith(strata, "b")
    for seed in range(20):
        fold = cohort_folds(np.arange(55), strata, 3, seed)
        assert np.bincount(fold[small]).tolist() == [2, 2, 2]


@settings(deadline=None, max_examples=20)
@given(made=people(), seed=st.integers(0, 99))
def test_names_do_not_matter_but_seeds_do(made, seed):
    names, strata, _ = made
    spelt = np.array([o[::-1] for o in names.tolist()])   # in another order of the alphabet
    assert np.array_equal(cohort_folds(names, strata, 3, seed), cohort_folds(spelt, strata, 3, seed))


def test_seeds_give_other_cohort_folds():
    strata = np.array(["a/x", "a/y"])[np.arange(40) % 2]
    one, other = (cohort_folds(np.arange(40), strata, 5, seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_the_first_known_stratum_of_a_person_counts():
    names = np.repeat(np.arange(20), 3)
    clean = np.array(["a/x", "a/y"], object)[names % 2]
    mixed = clean.copy()
    mixed[::3], mixed[2::3] = None, "a/z"
    assert np.array_equal(cohort_folds(names, mixed, 5), cohort_folds(names, clean, 5))


@pytest.mark.parametrize("subjects, strata, folds, message", [
    ([], [], 5, "no window"),
    (["a", "b", "c"], ["x"] * 3, 4, "4 folds of 3 subjects.*at most 3"),
    (["a", "b"], ["x"] * 2, 1, "nothing to train on"),
    (["a", "b", "c"], ["x"] * 2, 2, "3 subjects but 2 strata"),
    (["a", None, "c"], ["x"] * 3, 2, "1 windows are nobody's"),
    (["a", float("nan"), ""], ["x"] * 3, 2, "2 windows are nobody's"),
    (["a", "b", "b"], ["x", None, float("nan")], 2, "1 labels are missing"),
    (["a", "b", "c"], [60.5, 71.2, 80.0], 2, "measures")])
def test_cohort_folds_that_cannot_be_are_refused(subjects, strata, folds, message):
    with pytest.raises(SplitError, match=message): cohort_folds(subjects, strata, folds)
