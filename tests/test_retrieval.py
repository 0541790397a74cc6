"""Retrieval: ranks and chance against counting, equal texts, people, and a trained method's galleries."""
import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.plots import COLOURS
from biossl.evaluation.retrieval import (DIRECTIONS, Gallery, chance_median, chance_within, draw_retrieval,
                                         first_rank, gallery, median_rank, ranks, retrieval, text_cosines)
from biossl.evaluation.statistics import resample_subjects


def unit(x): return x / np.linalg.norm(x, axis=-1, keepdims=True)


def ranked_slowly(near, right):
    "The mean over all orders of those equally near."
    orders = [o for o in itertools.permutations(range(len(near)))
              if all(near[a] >= near[b] for a, b in zip(o, o[1:]))]
    return np.mean([1 + next(i for i, k in enumerate(o) if right[k]) for o in orders])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
def test_ranks_are_means_over_the_orders_of_what_is_equally_near(items):
    near, right = np.array([o[0] for o in items], float), np.array([o[1] for o in items])
    found = first_rank(near[None] / 4, right[None])[0]
    if not right.any(): assert np.isnan(found)
    else: assert found == pytest.approx(ranked_slowly(near, right))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 7))
def test_chance_is_what_counting_all_draws_gives(size, right, k):
    right = min(right, size)
    drawn = [any(o < right for o in c) for c in itertools.combinations(range(size), min(k, size))]
    assert chance_within([size], [right], k)[0] == pytest.approx(np.mean(drawn))


def test_the_median_by_chance_is_that_of_random_orders():
    rng, right = np.random.default_rng(0), np.r_[np.full(40, 3), np.full(40, 1)]
    drawn = [rng.permutation(50)[:m].min() + 1 for _ in range(300) for m in right]
    assert abs(chance_median(np.full(80, 50), right) - np.median(drawn)) <= 1


def written(n=60, texts=20, off=0.05, seed=0):
    rng = np.random.default_rng(seed)
    text, number = unit(rng.normal(size=(texts, 12))), np.arange(n) % texts
    people = np.array([f"p{i:03}" for i in range(n)])
    return Gallery(unit(text[number] + off * rng.normal(size=(n, 12))), text, number, people)


def value(frame, direction, measure, column="value"):
    return frame.set_index(["direction", "measure"]).loc[(direction, measure), column]


def test_a_planted_permutation_is_found_and_undone():
    o = written()
    dealt = np.random.default_rng(1).permutation(len(o.text))
    wrong = replace(o, text=o.text[dealt])
    back = replace(wrong, number=np.argsort(dealt)[o.number])
    for direction in DIRECTIONS:
        assert value(retrieval([o], 50), direction, "recall@1") == 100
        assert value(retrieval([wrong], 50), direction, "recall@1") < 20
        assert value(retrieval([back], 50), direction, "recall@1") == 100
        assert value(retrieval([o], 50), direction, "median rank") == 1


def test_equal_vectors_for_everything_are_at_chance():
    o = written()
    flat = replace(o, ecg=np.ones_like(o.ecg), text=np.ones_like(o.text))
    frame = retrieval([flat], 50)
    for direction in DIRECTIONS:
        assert value(frame, direction, "recall@1") == 0 and value(frame, direction, "recall@10") <= 100
        assert value(frame, direction, "median rank") == pytest.approx(
            value(frame, direction, "median rank", "chance"), abs=3)


def test_any_window_of_an_equal_text_is_right_and_texts_are_told_once():
    text = np.eye(3)
    o = Gallery(text[[0, 0, 1, 2]], text, np.array([0, 0, 1, 2]), np.array(list("abcd")))
    assert ranks(o, DIRECTIONS[1]).rank.tolist() == [1, 1, 1, 1]
    assert ranks(o, DIRECTIONS[1]).right.tolist() == [2, 2, 1, 1]
    assert ranks(o, DIRECTIONS[0]).size.tolist() == [3] * 4
    moved = replace(o, ecg=text[[1, 0, 1, 2]])        # the first reads like another's report
    assert ranks(moved, DIRECTIONS[0]).rank.tolist() == [2.5, 1, 1, 1]
    assert ranks(moved, DIRECTIONS[1]).rank[0] == 1     # but its text finds the other one of the same
    assert ranks(moved, DIRECTIONS[0]).same.tolist() == [1, 1, 2.5, 2.5]


def test_folds_have_galleries_of_their_own():
    a, b = written(), replace(written(seed=3), subjects=np.array([f"q{i:03}" for i in range(60)]))
    both = retrieval([a, b], 50)
    assert value(both, DIRECTIONS[0], "recall@1", "people") == 120
    assert value(both, DIRECTIONS[0], "recall@1", "gallery") == 20
    assert value(both, DIRECTIONS[0], "recall@1", "chance") == pytest.approx(5)


def test_draws_of_the_median_are_medians_of_the_people_drawn():
    rng = np.random.default_rng(0)
    rank, people = rng.integers(1, 30, 41).astype(float), np.repeat(np.arange(14), 3)[:41].astype(str)
    names = np.unique(people)
    drawn = resample_subjects(names, np.zeros(len(names)), 25, 0)
    slow = [np.median(np.concatenate([np.repeat(rank[people == o], w) for o, w in zip(names, k)]))
            for k in drawn.weights]
    np.testing.assert_allclose(median_rank(rank, people, 25).draws, slow)


def test_fewer_people_are_less_certain():
    o = written(off=0.6)
    few = replace(o, subjects=np.array([f"p{i // 12}" for i in range(60)]))
    wide, narrow = (np.subtract(*retrieval([k], 400).loc[1, ["high", "low"]]) for k in (few, o))
    assert wide > 0 and narrow > 0 and value(retrieval([few], 50), DIRECTIONS[0], "recall@1", "people") == 5


@pytest.mark.parametrize("change", [dict(number=np.arange(59)), dict(number=np.arange(60)),
                                    dict(subjects=np.array(["a"]))], ids=str)
def test_what_does_not_fit_together_is_refused(change):
    with pytest.raises(RequestError): replace(written(), **change)


def test_no_other_direction():
    with pytest.raises(RequestError, match="ECG to report"): ranks(written(), "sideways")


# ---- of trained methods

@dataclass(frozen=True)
class Told:
    "What a reader of reports offers."
    class config: report, words = "report", 2
    name = "told"
    embed_keys = ("ecg",)

    def to(self, device): return self
    def eval(self): return self
    def place(self, batch): return batch["ecg"][:, 0, :3]
    def describe(self, texts):
        import torch
        return torch.stack([torch.eye(3)[len(o.split()) - 2] for o in texts])


class Few:
    "Four windows; nothing is written of the last."
    cohort = "few"
    texts = np.array(["sinus rhythm.", "sinus rhythm.", "atrial fibrillation found.", ""], object)
    def labels(self, key):
        return dict(report=self.texts, subject=np.array(list("abcd"))).get(key, np.array(["x"] * 4))
    def batch(self, rows, keys):
        return dict(ecg=np.eye(3, dtype=np.float32)[[0, 0, 1, 2]][rows][:, None])


def test_texts_at_one_place_have_a_cosine_of_one():
    class Deaf(Told):
        def describe(self, texts):
            import torch
            return torch.eye(3)[[2] * len(texts)]
    a, b, c = "sinus rhythm.", "atrial fibrillation found.", "a b c d."
    assert text_cosines([Deaf()], [a, b]) == dict(mean=1, least=1, largest=1)
    assert text_cosines([Told()], [a, b, c]) == dict(mean=0, least=0, largest=0)
    both = text_cosines([Told(), Deaf()], [a, b])
    assert both == dict(mean=0.5, least=0, largest=1)


def test_a_gallery_leaves_out_who_has_no_report_and_keeps_texts_once():
    o = gallery(Told(), Few(), np.array([3, 2, 0, 1]))
    assert o.subjects.tolist() == ["c", "a", "b"] and len(o.text) == 2
    assert (ranks(o, DIRECTIONS[0]).rank == 1).all()
    with pytest.raises(MethodError, match="no window"): gallery(Told(), Few(), np.array([3]))
    with pytest.raises(MethodError, match="reads no texts"): gallery(object.__new__(type("Mute", (), dict(
        name="mute"))), Few(), np.array([0]))


def test_what_one_answer_for_everybody_finds_is_drawn_beside_chance():
    frame = retrieval([gallery(Told(), Few(), np.array([3, 2, 0, 1]))], 20)
    to_report, to_ecg = draw_retrieval({"told": frame}).axes
    marks = {o.get_color(): o.get_xdata()[0] for o in to_report.get_lines() if o.get_marker() == "|"}
    first = frame[(frame.direction == "ECG to report") & (frame.measure == "recall@10")].iloc[0]
    assert marks == {COLOURS["grey"]: first.chance, COLOURS["black"]: first.same}
    assert all(np.isnan(o.get_xdata()[0]) for o in to_ecg.get_lines() if o.get_color() == COLOURS["black"])
