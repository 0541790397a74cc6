"""Folds: nobody on both sides, everybody tested once, classes in balance, and errors that name."""
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import SplitError
from biossl.data.splits import (assert_disjoint, assert_one_name, inner_folds, multilabel_folds,
                                subject_folds, subjects_by_class, window_folds)

quick = settings(deadline=None, max_examples=40)


@st.composite
def cohorts(draw, classes=2):
    "Subjects, each with some windows of one class; at least 6 subjects of every class."
    counts = draw(st.lists(st.integers(6, 20), min_size=classes, max_size=classes))
    label = np.repeat(np.arange(classes), counts)
    windows = np.array(draw(st.lists(st.integers(1, 6), min_size=len(label), max_size=len(label))))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(windows.sum())
    names = np.array([f"p{i}" for i in range(len(label))])
    return np.repeat(names, windows)[order], np.repeat(label, windows)[order]


def assert_once(fold, subjects, folds):
    "By loops: every window has one fold, every subject one, and every fold somebody."
    assert len(fold) == len(subjects) and set(fold.tolist()) == set(range(folds))
    seen = {}
    for f, s in zip(fold.tolist(), subjects.tolist()): assert seen.setdefault(s, f) == f


@quick
@given(made=cohorts(), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_subjects_stay_whole_and_are_tested_once(made, folds, seed):
    subjects, af = made
    fold = subject_folds(subjects, af, folds, seed)
    assert_once(fold, subjects, folds)
    for k in range(folds):
        assert_disjoint(subjects[fold != k], subjects[fold == k])
        assert len(set(af[fold == k].tolist())) == len(set(af[fold != k].tolist())) == 2
    assert np.array_equal(fold, subject_folds(subjects, af, folds, seed))


@quick
@given(zeros=st.integers(10, 30), ones=st.integers(10, 30), each=st.integers(1, 5),
       folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_equal_subjects_are_dealt_evenly(zeros, ones, each, folds, seed):
    af = np.repeat([0] * zeros + [1] * ones, each)
    subjects = np.repeat(np.arange(zeros + ones), each)
    fold = subject_folds(subjects, af, folds, seed)
    for label, n in ((0, zeros), (1, ones)):
        people = [len(np.unique(subjects[(fold == k) & (af == label)])) for k in range(folds)]
        assert max(people) - min(people) <= 1 and sum(people) == n


def test_seeds_give_other_folds():
    subjects, af = np.arange(40), np.arange(40) % 2
    assert len({tuple(subject_folds(subjects, af, 5, seed)) for seed in range(5)}) == 5


@quick
@given(made=cohorts(), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_a_measure_needs_no_strata(made, folds, seed):
    assert_once(subject_folds(made[0], None, folds, seed), made[0], folds)


@quick
@given(people=st.integers(20, 60), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_many_labels_are_spread_over_subjects(people, folds, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((people, 3)) < [0.5, 0.3, 0.4]).astype(int)
    subjects, windows = np.repeat(np.arange(people), 2), np.repeat(labels, 2, axis=0)
    fold = multilabel_folds(subjects, windows, folds, seed)
    assert_once(fold, subjects, folds)
    people_with = np.array([labels[fold[::2] == k].sum(0) for k in range(folds)])
    assert (abs(people_with - labels.sum(0) / folds) <= 2).all()   # chance is off by up to 6


def test_a_subject_has_the_labels_of_all_its_windows():
    "One window of each has the rare label: it must be spread all the same."
    subjects, labels = np.repeat(np.arange(40), 3), np.zeros((120, 2), int)
    labels[np.arange(10) * 3, 0] = 1
    fold = multilabel_folds(subjects, labels, 5, 0)
    assert [labels[fold == k, 0].sum() for k in range(5)] == [2] * 5


def test_window_folds_leak_and_the_check_sees_it():
    subjects, af = np.repeat(np.arange(10), 10), np.repeat(np.arange(10) % 2, 10)
    fold = window_folds(subjects, af, 5, 0)
    assert np.bincount(fold).tolist() == [20] * 5
    with pytest.raises(SplitError, match="fold 0.*10 subjects"):
        assert_disjoint(subjects[fold != 0], subjects[fold == 0], "fold 0")


@quick
@given(*[st.sets(st.sampled_from([f"p{i}" for i in range(5)]))] * 2)
def test_disjoint_means_disjoint(train, test):
    if train and test and not train & test: assert_disjoint(list(train), list(test))
    else:
        with pytest.raises(SplitError) as caught: assert_disjoint(list(train), list(test), "here")
        assert "here" in str(caught.value)
        if train and test: assert all(o in str(caught.value) for o in train & test)


def test_two_names_of_one_person_are_one():
    assert_disjoint([7, 8], ["9"])
    with pytest.raises(SplitError, match="8"): assert_disjoint([7, 8], ["8"])
    with pytest.raises(SplitError, match="ann"):
        assert_disjoint(["ann"], ["anna"], aliases={"anna": "ann"})


@quick
@given(made=cohorts(3), folds=st.integers(2, 6), seed=st.integers(0, 9), rare=st.integers(2, 6))
def test_inner_folds_always_leave_two_classes_to_train_on(made, folds, seed, rare):
    subjects, label = made
    keep = (label != 2) | np.isin(subjects, np.unique(subjects[label == 2])[:rare])
    fold = inner_folds(subjects[keep], label[keep], folds, seed)
    assert_once(fold, subjects[keep], min(folds, rare))
    for k in range(fold.max() + 1): assert len(set(label[keep][fold != k].tolist())) >= 2


def test_a_subject_of_two_classes_counts_in_both():
    assert subjects_by_class(["a", "a", "b", "c"], ["x", "y", "x", "x"]) == {"x": 3, "y": 1}
    subjects, act = np.repeat(np.arange(6), 4), np.tile([0, 0, 1, 1], 6)
    assert_once(subject_folds(subjects, act, 3, 0), subjects, 3)


@pytest.mark.parametrize("subjects, strata, folds, message", [
    ([], [], 5, "no window"),
    (["a", "b", "c"], [0, 1, 0], 4, "4 folds of 3 subjects.*at most 3"),
    (["a", "b"], [0, 1], 1, "nothing to train on"),
    (["a", "b", "c"], [1, 1, 1], 2, "all windows.*one class, 1"),
    (["a", "b", "c"], [0, 0, 1], 2, "class 1 has one subject"),
    (["a", "b", "c"], [0, 1], 2, "3 subjects but 2 strata"),
    (["a", "b", "c"], [0, 1, None], 2, "1 labels are missing"),
    (["a", "b", "c"], [0, 1, float("nan")], 2, "1 labels are missing"),
    (["a", "b", "c"], [60.5, 71.2, 80.0], 2, "measures"),
    (list("abcdefgh"), [0, 0, 1, 1, 1, 1, 1, 1], 4, "fold.*test side.*one class")])
def test_folds_that_cannot_be_are_refused(subjects, strata, folds, message):
    with pytest.raises(SplitError, match=message): subject_folds(subjects, strata, folds)


def test_too_many_folds_are_refused_everywhere():
    for maker, strata in ((multilabel_folds, np.eye(3, dtype=int)), (window_folds, [0, 1, 0]),
                          (subject_folds, None)):
        with pytest.raises(SplitError, match="4 folds of 3"): maker(["a", "b", "c"], strata, 4)


def store(arrays, subjects):
    "What `assert_one_name` looks at."
    columns = dict(subject=np.array(subjects), recording=np.array([f"r{o}" for o in subjects]))
    return SimpleNamespace(arrays=dict(ecg=arrays), signals=("ecg",), labels=columns.get)


def test_one_window_under_two_subjects_is_named():
    x = np.random.default_rng(0).normal(size=(6, 1, 50)).astype(np.float32)
    assert_one_name(store(x, list("aabbcc")))
    x[5] = x[0]
    with pytest.raises(SplitError, match="rc, subject.*ra of subject a.*subject c"):
        assert_one_name(store(x, list("aabbcc")))
    assert_one_name(store(x, list("aabbca")))        # the same person twice is no fault
    x[5] = x[0] = 0
    assert_one_name(store(x, list("aabbcc")))        # nor is a flat line
