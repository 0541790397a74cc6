"""Folds: nobody on both sides, everybody tested once, classes in balance, and errors that name."""
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import SplitError
from biossl.data.splits import (assert_disjoint, assert_one_name, assert_strangers, inner_folds, multilabel_folds,
                                released_folds, source_folds, subject_folds, subjects_by_class,
                                window_folds)

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


# ---- several sources

@st.composite
def sourced(draw):
    "Windows of people with many labels, one never there, in sources of any size."
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    sizes = draw(st.lists(st.integers(1, 30), min_size=2, max_size=4).filter(lambda o: sum(o) > 9))
    people = sum(sizes)
    labels = (rng.random((people, 4)) < [0.5, 0.2, 0.05, 0]).astype(int)
    who = np.r_[np.arange(people), rng.integers(0, people, people)]
    home = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    return np.array([f"p{i}" for i in range(people)])[who], labels[who], home[who]


@quick
@given(made=sourced(), folds=st.integers(2, 10), seed=st.integers(0, 99))
def test_every_source_is_spread_and_every_person_whole(made, folds, seed):
    subjects, labels, sources = made
    fold = source_folds(subjects, labels, sources, folds, seed)
    assert_once(fold, subjects, folds)
    one = np.unique(subjects, return_index=True)[1]   # labels are of the person here
    for part in (one, *(one[sources[one] == s] for s in np.unique(sources))):
        has = np.array([labels[part][fold[part] == k].sum(0) for k in range(folds)])
        assert (abs(has - labels[part].sum(0) / folds) < 3).all()
    assert np.array_equal(fold, source_folds(subjects, labels, sources, folds, seed))


def test_a_person_of_two_sources_stays_in_one_fold():
    subjects = np.array([f"p{i % 20}" for i in range(40)])
    labels = np.random.default_rng(0).integers(0, 2, (40, 3))
    fold = source_folds(subjects, labels, np.repeat(["a", "b"], 20), 5)
    assert_once(fold, subjects, 5)


def test_tiny_sources_and_rare_classes_fill_what_others_left():
    "Ten sources of two people, one of whom has the rare class: a fold gets one, or one each."
    subjects, sources = np.arange(20), np.repeat(np.arange(10), 2)
    fold = source_folds(subjects, (np.arange(20) % 2)[:, None], sources, 10)
    assert set(np.bincount(fold).tolist()) <= {1, 2, 3}
    assert np.bincount(fold[1::2]).tolist() == [1] * 10
    few = source_folds(np.arange(34), np.eye(34, 2, dtype=int), np.repeat(["big", "tiny"], [30, 4]))
    assert len(set(few[30:].tolist())) == 4 and np.bincount(few).max() == 4


def test_labels_of_all_windows_of_a_person_count():
    subjects, labels = np.repeat(np.arange(40), 3), np.zeros((120, 2), int)
    labels[np.arange(10) * 3 + 2, 0] = 1
    fold = source_folds(subjects, labels, ["one"] * 120, 5)
    assert [labels[fold == k, 0].sum() for k in range(5)] == [2] * 5


def test_seeds_give_other_source_folds():
    subjects, labels = np.arange(40), np.random.default_rng(0).integers(0, 2, (40, 3))
    made = {tuple(source_folds(subjects, labels, ["a"] * 40, 5, seed)) for seed in range(5)}
    assert len(made) == 5


def test_sources_that_cannot_be_dealt_are_refused():
    with pytest.raises(SplitError, match="10 folds of 3"):
        source_folds(["a", "b", "c"], np.eye(3), ["s"] * 3)
    for maker in (lambda: source_folds(["a", "b"], np.eye(2), ["s"], 2),
                  lambda: released_folds(np.eye(2), ["s"])):
        with pytest.raises(SplitError, match="2 rows of labels but 1 sources"): maker()
    with pytest.raises(SplitError, match="no window"): source_folds([], np.zeros((0, 2)), [])


# ---- the released record-level folds

REFERENCE = (
    "35627301861389182590592210203757638128754948756904995434027466018238114542347161283893850023975"
    "677289589349450961852400334673717061908036696628769592374737115724440856081405905592226118")


def reference_labels():
    i, k = np.arange(200)[:, None], np.arange(24)
    labels = ((7 * i + 11 * k + 3 * i * k) % 13 == 0).astype(int)
    return labels[labels.any(1)]


def slowly(labels, folds, random):
    "The routine as it is described, every list made anew for every record."
    n, count = labels.shape
    fold, size = [-1] * n, [n / folds] * folds
    of = [[labels[:, j].sum() / folds] * folds for j in range(count)]
    while True:
        left = [[i for i in range(n) if fold[i] < 0 and labels[i, j]] for j in range(count)]
        if not any(left): return fold
        fewest = min(len(o) for o in left if o)
        label = next(j for j in range(count) if len(left[j]) == fewest)
        for i in left[label][::-1]:
            best = [f for f in range(folds) if of[label][f] == max(of[label])]
            if len(best) > 1:
                most = max(size[f] for f in best)
                best = [random.choice([f for f in best if size[f] == most])]
            fold[i] = best[0]
            size[best[0]] -= 1
            for j in range(count): of[j][best[0]] -= labels[i, j]


def test_released_folds_are_the_published_sequence():
    labels = reference_labels()
    fold = released_folds(labels)
    assert "".join(map(str, fold)) == REFERENCE and len(labels) == 185
    sizes = np.bincount(fold)
    assert sizes.min() == 18 and sizes.max() == 19
    off = max(abs(labels[fold == k].sum(0) - labels.sum(0) / 10).max() for k in range(10))
    assert off == pytest.approx(0.6)


@quick
@given(n=st.integers(20, 60), seed=st.integers(0, 99), folds=st.integers(2, 10))
def test_released_folds_equal_the_routine_written_slowly(n, seed, folds):
    labels = (np.random.default_rng(seed).random((n, 5)) < [0.6, 0.3, 0.2, 0.1, 0.05]).astype(int)
    labels = labels[labels.any(1)]
    expected = slowly(labels, folds, np.random.RandomState(seed))
    assert released_folds(labels, folds=folds, random=np.random.RandomState(seed)).tolist() == expected


def test_released_folds_of_labels_as_rare_as_the_published_ones():
    instances = [2394, 3475, 314, 288, 3085, 1611, 1806, 6086, 1041, 556, 997, 299, 1944, 553, 340,
                 1513, 1013, 427, 1240, 2359, 20846, 2402, 4673, 1112]
    labels = np.random.default_rng(0).random((2000, 24)) < np.array(instances) / 37_700
    labels = labels[labels.any(1)]
    fold = released_folds(labels)
    for k in range(10): assert abs(labels[fold == k].sum(0) - labels.sum(0) / 10).max() <= 1


def test_each_source_is_released_on_its_own():
    labels = reference_labels()
    both = released_folds(np.r_[labels, labels], np.repeat(["b", "a"], len(labels)))
    assert "".join(map(str, both)) == REFERENCE * 2


def test_windows_of_a_recording_stay_together_and_come_by_name():
    labels = reference_labels()
    names = np.array([f"r{i:03}" for i in range(len(labels))])
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(labels)), 2))
    fold = released_folds(labels[order], recordings=names[order])
    assert fold.tolist() == [int(REFERENCE[i]) for i in order]


def test_records_without_a_label_fill_up():
    labels = np.zeros((40, 2), int)
    labels[:11, 0] = 1
    fold = released_folds(labels, folds=4)
    assert np.bincount(fold).tolist() == [10] * 4


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


def test_a_window_that_another_cohort_holds_too_is_named():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 1, 50)).astype(np.float32)
    x[0] = y[0] = 0                                  # a flat line is nobody's
    assert_strangers(store(x, list("aabbcc")), store(y, list("aabbcc")))   # names tell nothing
    y[4] = x[2]
    with pytest.raises(SplitError, match="rb, subject.*rz of another cohort"):
        assert_strangers(store(x, list("aabbcc")), store(y, list("vwxyzz")))
