"""Pictures show the numbers they are given, and the same numbers give the same files."""
import numpy as np
import pandas as pd
import pytest

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.plots import (agreement, arms, curves, differences, forest, leakage, save,
                                     signals, styled, subject_dots)


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


def gaps():
    return pd.DataFrame(dict(row=["worse", "same", "lost"], metric="challenge",
                             difference=[-8, .5, np.nan], low=[-11, -1, np.nan],
                             high=[-5, 2, np.nan], published=[np.nan, 1.5, np.nan]))


def several():
    return pd.concat([frame([90, 80, 70]), frame([60, 50, np.nan], metric="challenge")])


PICTURES = dict(forest=lambda: forest(frame([70, 90, np.nan]), "auroc"),
                leakage=lambda: leakage(frame([50, 60, 70]), frame([50, 90, 99]), "auroc"),
                roc=lambda: curves({"a": binary(), "b": binary(.3)}, resamples=20),
                pr=lambda: curves({"a": binary()}, "pr", resamples=20),
                dots=lambda: subject_dots({"a": binary()}, {0: "no", 1: "yes"}),
                agreement=lambda: agreement(quantity()),
                differences=lambda: differences(gaps(), "challenge", "as intended"),
                arms=lambda: arms(several(), ("auroc", "challenge")),
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
    assert all(o.get_ylabel() or [t for t in o.get_yticklabels() if t.get_text()]
               or o.get_shared_y_axes().get_siblings(o)[1:] for o in axes)


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


def full_and_hollow(axis):
    "Coordinates of the full and of the hollow dots."
    dots = [o for o in axis.get_lines() if o.get_marker() == "o"]
    return [[tuple(xy) for o in dots for xy in o.get_xydata().tolist() if np.isfinite(xy[0])
             and (o.get_markerfacecolor() == "white") == hollow] for hollow in (False, True)]


def test_differences_are_full_dots_where_they_can_be_told_from_nothing():
    axis = differences(gaps(), "challenge", "as intended").axes[0]
    assert full_and_hollow(axis) == [[(-8, 2)], [(.5, 1)]] and drawn(axis, "D") == [(1.5, 1)]
    spans = [o.tolist() for c in axis.collections for o in c.get_segments()][:2]
    assert spans == [[[-11, 2], [-5, 2]], [[-1, 1], [2, 1]]]
    assert [o.get_text() for o in axis.texts] == ["no result"]
    assert axis.get_xlabel() == "Challenge score − as intended, points"
    positive = gaps().assign(difference=8, low=5, high=11)
    assert len(full_and_hollow(differences(positive, "challenge").axes[0])[0]) == 3
    with pytest.raises(RequestError, match="no interval"):      # a table's, of means
        differences(gaps().assign(difference=8, low=50, high=60), "challenge")


def test_arms_stand_in_the_same_order_in_every_panel():
    groups = {"first": {"a": "Two", "b": "One"}, "second": {"a": "Lost"}}
    fig = arms(several(), ("auroc", "challenge"), groups)
    left, right = fig.axes
    assert [x for x, _ in drawn(left, "o")] == [80, 90, 70]
    assert [x for x, _ in drawn(right, "o")] == [50, 60]
    assert [o.get_text() for o in left.get_yticklabels()] == ["a", "b", "a"]
    heights = [y for _, y in drawn(left, "o")]
    assert heights == sorted(heights, reverse=True) == left.get_yticks().tolist()
    assert [y for _, y in drawn(right, "o")] == heights[:2]
    assert [o.get_text() for o in right.texts] == ["no result"]
    assert drawn(left, "D") == [(80, heights[1])]
    with pytest.raises(RequestError, match="Gone"): arms(several(), ["auroc"], {"g": {"a": "Gone"}})


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
    lambda: differences(gaps(), "auroc"), lambda: arms(several(), ["auroc", "f1_macro"]),
    lambda: agreement(binary()), lambda: signals({"a": (np.zeros((2, 5)), 1)})])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises((RequestError, MethodError)): wrong()


def test_signals_without_beats_fill_their_page():
    x = np.sin(np.arange(400) / 9)
    fig = signals({name: (x, 20) for name in ("ECG", "PPG")}, beats={"ECG": [2.0, 12.0]}, seconds=(1, 9))
    fig.draw_without_rendering()
    ecg, ppg = fig.axes
    assert ecg.get_position().y1 > 0.95 and ppg.get_position().x1 > 0.95
    assert [len(o.get_xdata()) for axis in (ecg, ppg) for o in axis.lines[1:]] == [1]   # a beat of the ECG
