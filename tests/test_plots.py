"""Pictures show the numbers they are given, and the same numbers give the same files."""
import numpy as np
import pandas as pd
import pytest

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.plots import (agreement, curves, forest, leakage, save, signals, styled,
                                     subject_dots)


def frame(means, rows=("One", "Two", "Lost"), metric="auroc"):
    means = np.array(means, float)
    return pd.DataFrame(dict(row=rows, metric=metric, published=[80, np.nan, np.nan], mean=means,
                             low=means - 5, high=means + 4, schedule=""))


def binary(gain=1.0):
    generator = np.random.default_rng(0)
    who = np.repeat(np.arange(12), 5)
    truth = who % 2
    p = 1 / (1 + np.exp(-(gain * (2 * truth - 1) + generator.normal(size=60))))
    return pd.DataFrame(dict(row="r", seed=0, window=range(60), subject=who.astype(str),
                             truth=truth, score_no=1 - p, score_yes=p))


def quantity():
    truth = np.linspace(50, 120, 40)
    said = truth + np.tile([1., 3.], 20)
    return pd.DataFrame(dict(row="r", seed=0, window=range(40), subject="s", truth=truth,
                             score=said))


PICTURES = dict(forest=lambda: forest(frame([70, 90, np.nan]), "auroc"),
                leakage=lambda: leakage(frame([50, 60, 70]), frame([50, 90, 99]), "auroc"),
                roc=lambda: curves({"a": binary(), "b": binary(.3)}, resamples=20),
                pr=lambda: curves({"a": binary()}, "pr", resamples=20),
                dots=lambda: subject_dots({"a": binary()}, {0: "no", 1: "yes"}),
                agreement=lambda: agreement(quantity()),
                signals=lambda: signals({"ECG, mV": (np.sin(np.arange(200) / 9), 100)}))


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_is_the_same_two_files(name, tmp_path):
    first, second = (save(PICTURES[name](), tmp_path / k) for k in "ab")
    assert [o.suffix for o in first] == [".svg", ".png"]
    assert [o.read_bytes() for o in first] == [o.read_bytes() for o in second]
    assert first[0].read_bytes().startswith(b"<?xml") and b"<dc:date>" not in first[0].read_bytes()
    assert first[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PICTURES)
def test_every_axis_says_what_it_shows(name):
    axes = PICTURES[name]().axes
    assert any(o.get_xlabel() for o in axes)
    assert all(o.get_ylabel() or [t for t in o.get_yticklabels() if t.get_text()] for o in axes)


def drawn(axis, marker):
    "Coordinates of all points that are drawn with this marker."
    return [(float(x), float(y)) for line in axis.get_lines() if line.get_marker() == marker
            for x, y in line.get_xydata() if np.isfinite(x)]


def test_a_forest_shows_means_intervals_and_the_papers_values():
    axis = forest(frame([70, 90, np.nan]), "auroc").axes[0]
    assert drawn(axis, "o") == [(70, 2), (90, 1)] and drawn(axis, "D") == [(80, 2)]
    spans = [o.tolist() for o in axis.collections[0].get_segments()][:2]
    assert spans == [[[65, 2], [74, 2]], [[85, 1], [94, 1]]]
    assert [o.get_text() for o in axis.texts] == ["no result"]
    assert [o.get_text() for o in axis.get_yticklabels()] == ["One", "Two", "Lost"]


@pytest.mark.parametrize("metric, given, expected", [("auroc", None, [50]), ("accuracy", None, []),
                                                     ("accuracy", 54.3, [54.3]), ("r", None, [0])])
def test_chance_is_drawn_where_it_is_known(metric, given, expected):
    axis = forest(frame([70, 90, 50], metric=metric), metric, given).axes[0]
    assert [o.get_xdata()[0] for o in axis.get_lines() if o.get_label() == "chance"] == expected


def test_leakage_shows_both_kinds_of_folds():
    axis = leakage(frame([50, 60, 70]), frame([50, 90, 99]), "auroc").axes[0]
    assert [x for x, _ in drawn(axis, "o")] == [50, 60, 70, 50, 90, 99]
    with pytest.raises(RequestError, match="rows"):
        leakage(frame([1, 2, 3]), frame([1, 2, 3], rows=("One", "Lost", "Two")), "auroc")


def test_dots_are_the_people():
    axis = subject_dots({"a": binary()}).axes[0]
    answers = binary()
    right = (answers.score_yes > .5) == answers.truth
    expected = sorted(100 * right.groupby(answers.subject).mean())
    assert sorted(x for x, _ in drawn(axis, "o")) == pytest.approx(expected)


def test_limits_of_agreement():
    right = agreement(quantity()).axes[1]
    half = 1.96 * np.std([1., 3.] * 20, ddof=1)
    assert [o.get_ydata()[0] for o in right.get_lines()[1:]] == pytest.approx(
        [2, 2 - half, 2 + half])


def test_signals_share_a_clock_whatever_their_rates():
    axes = signals({"a": (np.zeros(100), 50), "b": (np.zeros(200), 100)}, beats={"b": [.5]}).axes
    assert [o.get_lines()[0].get_xdata()[-1] for o in axes] == pytest.approx([1.98, 1.99])
    assert drawn(axes[1], "|") == [(.5, 1)]


def test_the_style_ends_with_the_picture():
    import matplotlib
    before = dict(matplotlib.rcParams)
    PICTURES["forest"]()
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ZeroDivisionError): styled(lambda: 1 / 0)()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("wrong", [
    lambda: forest(frame([1, 2, 3]), "f1_macro"), lambda: forest(frame([1, 2, 3]), "auroq"),
    lambda: curves({"a": binary()}, "lift"), lambda: curves({"a": quantity()}, resamples=5),
    lambda: agreement(binary()), lambda: signals({"a": (np.zeros((2, 5)), 1)})])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises((RequestError, MethodError)): wrong()
