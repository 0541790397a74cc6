"""Pictures of a masked model: what they show is what the model, the arrays and the frames hold."""
import numpy as np
import pandas as pd
import pytest
import torch

from biossl.data.errors import MethodError, RequestError
from biossl.evaluation.anatomy import rebuilder
from biossl.evaluation.panels import (draw_curve, draw_masks, draw_model, draw_rebuilt, draw_tasks,
                                      visibility)
from biossl.evaluation.plots import COLOURS, save
from biossl.methods.contract import get_method
from biossl.methods.xmae import RELEASED


def texts(fig): return [o.get_text() for axis in fig.axes for o in axis.texts]


# ---- the model -------------------------------------------------------------------------------

HYPER = dict(described={}, released=dict(RELEASED), reverse=dict(rebuilds="ppg"), none=dict(ratio=1.0),
             zeroed=dict(masked_stem="zeroed"), banded=dict(attention_lag="band", query="one"))


def pilot(name): return get_method("xmae", size="pilot", **HYPER[name])


def weights(module): return sum(o.numel() for o in module.parameters())


@pytest.mark.parametrize("name", HYPER)
def test_every_weight_is_in_one_box_and_grey_is_what_an_optimiser_would_not_move(name):
    method = pilot(name)
    parts = rebuilder(method)
    assert sum(o.parameters for o in parts) == weights(method)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    windows = {key: torch.randn(8, 1, 1000) for key in method.signals}
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1.0)
    method.loss(windows, torch.Generator().manual_seed(1)).total.backward()
    optimiser.step()
    still = sum(p.numel() for key, p in method.named_parameters() if torch.equal(before[key], p))
    assert sum(o.parameters for o in parts if not o.learns) == still


def test_what_never_learns_is_told_by_the_loss_and_not_by_a_switch():
    assert rebuilder(pilot("released").requires_grad_(True)) == rebuilder(pilot("released"))


def test_the_released_network_carries_what_never_learns():
    parts = rebuilder(get_method("xmae", **dict(RELEASED)))
    total = [sum(o.parameters for o in parts if o.learns == k) for k in (True, False)]
    assert total == [5_015_049, 6_481_930 - 5_015_049]
    assert {o.name for o in parts if not o.learns} == {"mask_token", "rebuilders.ppg",
                                                       "projections.ppg", "projections.ecg"}


def shape_of(parts, name, signal=""):
    return next(o.shape for o in parts if (o.name, o.signal) == (name, signal))


@pytest.mark.parametrize("name, ecg, ppg", [("described", 200, 1000), ("reverse", 1000, 200),
                                            ("zeroed", 1000, 1000)])
def test_lanes_show_what_each_encoder_is_given(name, ecg, ppg):
    parts = rebuilder(pilot(name))
    assert [shape_of(parts, "window", o) for o in ("ecg", "ppg")] == [(1, ecg), (1, ppg)]
    hidden = "ppg" if name == "reverse" else "ecg"
    assert shape_of(parts, "blocks", hidden) == (5, 64)
    assert shape_of(parts, "query") == shape_of(parts, "bridge") == (25, 64)
    assert shape_of(parts, "rebuilt") == (1, 1000) and shape_of(parts, "embedding") == (64,)


@pytest.mark.parametrize("name", HYPER)
def test_boxes_say_their_shapes_and_weights(name):
    parts, fig = rebuilder(pilot(name)), draw_model(pilot(name))
    written = texts(fig)
    assert {f"{o.parameters:,}" for o in parts if o.parameters} <= set(written)
    assert {" × ".join(map(str, o.shape)) for o in parts if o.shape} <= set(written)
    assert any(f"{sum(o.parameters for o in parts if o.learns):,} weights" in o for o in written)
    grey = [o for o in fig.axes[0].patches if to_hex(o.get_edgecolor()) == COLOURS["grey"].lower()]
    assert len(grey) == sum(not o.learns for o in parts)


def to_hex(colour):
    from matplotlib.colors import to_hex
    return to_hex(colour)


def test_the_embedding_says_whether_it_is_projected():
    kinds = {name: next(o.kind for o in rebuilder(pilot(name)) if o.name == "embedding")
             for name in ("described", "released")}
    assert kinds == dict(described="mean", released="projected")


def test_no_hook_stays_and_other_methods_are_refused():
    method = pilot("described")
    draw_model(method)
    assert not any(o._forward_hooks for o in method.modules())
    for name in ("tsta", "ppg_mae", "raw_moments"):
        with pytest.raises(MethodError, match=name): draw_model(get_method(name))


# ---- masks -----------------------------------------------------------------------------------

def generator(): return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("ratio, seen", [(0.8, 5), (0.5, 13), (0.95, 1)])
def test_how_often_a_patch_is_seen_is_a_matter_of_counting(ratio, seen):
    starts = 25 - seen + 1
    windows = np.array([[s <= i < s + seen for i in range(25)] for s in range(starts)])
    assert np.allclose(visibility("anchor", generator(), ratio), windows.mean(0), atol=0.05)
    assert np.allclose(visibility("scatter", generator(), ratio), seen / 25, atol=0.05)
    block = np.array([[not s <= i < s + 25 - seen for i in range(25)] for s in range(seen + 1)])
    assert np.allclose(visibility("block", generator(), ratio), block.mean(0), atol=0.05)
    assert visibility("trailing", generator(), ratio).tolist() == [1] * seen + [0] * (25 - seen)


def shaded(axis):
    "Seconds that are shaded."
    return sum(o.get_width() for o in axis.patches)


@pytest.mark.parametrize("ratio, seen", [(0.8, 2.0), (0.4, 6.0), (1.0, 0.0)])
def test_what_is_shaded_is_drawn_strongly_and_is_the_share_that_is_seen(ratio, seen):
    x = np.sin(np.arange(1000) / 9)
    fig = draw_masks(x, generator(), ratio)
    assert len(fig.axes) == 8
    for left, right in zip(fig.axes[::2], fig.axes[1::2]):
        pale, strong = (o.get_ydata() for o in left.get_lines())
        assert np.array_equal(pale, x)
        assert np.isfinite(strong).sum() == pytest.approx(100 * seen)
        assert shaded(left) == pytest.approx(seen)
        assert len(right.patches) == 25
        assert sum(o.get_height() for o in right.patches) == pytest.approx(250 * seen)


def test_bad_masks_and_windows_are_refused():
    x = np.zeros(1000)
    with pytest.raises(MethodError, match="anchors"): draw_masks(x, generator(), kinds=["anchors"])
    for wrong in (x[:-1], x[None], x[:0]):
        with pytest.raises(RequestError, match="ecg"): draw_masks(wrong, generator())


# ---- rebuilt windows -------------------------------------------------------------------------

BEATS = np.arange(0.8, 9.3, 0.8)


def beating(times):
    t = np.arange(1000) / 100
    return 2 * np.exp(-((t[:, None] - times) / 0.02)**2).sum(1) - 1


def windows(rebuilt, keep=((10, 11, 12, 13, 14),), **change):
    n = len(rebuilt)
    true = np.stack([beating(BEATS)] * n)[:, None]
    given = dict(ppg=-true, ecg=true, rebuilt=np.stack(rebuilt)[:, None], keep=np.array(keep * n),
                 beats=np.stack([BEATS] * n), titles=[f"AF, person {k}" for k in range(n)])
    return given | change


HIDDEN = ~((BEATS >= 4) & (BEATS < 6))


@pytest.mark.parametrize("late", [-0.12, -0.03, 0.05, 0.1])
def test_hidden_beats_bear_their_error(late):
    fig = draw_rebuilt(**windows([beating(BEATS + late)]))
    written = [o for o in texts(fig) if o != "ms late"]
    assert len(written) == HIDDEN.sum()
    assert np.allclose([float(o) for o in written], 1e3 * late, atol=2)
    at = [o.xy[0] for o in fig.axes[1].texts if o.get_text() != "ms late"]
    assert np.allclose(at, BEATS[HIDDEN])
    title = fig.axes[0].get_title(loc="left")
    assert title.startswith("AF, person 0") and f"{HIDDEN.sum()} of {HIDDEN.sum()} hidden" in title
    assert f"{abs(1e3 * late):.0f} ms" in title


def test_missed_beats_are_crosses_and_what_was_shown_is_not_judged():
    flat = np.full(1000, -1.0)
    written = texts(draw_rebuilt(**windows([flat, beating(BEATS)])))
    assert written.count("×") == HIDDEN.sum() and written.count("+0") + written.count("-0") == HIDDEN.sum()
    seen = draw_rebuilt(**windows([flat], keep=(tuple(range(25)),)))
    assert set(texts(seen)) == {"ms late"} and "0 of 0" in seen.axes[0].get_title(loc="left")
    none = draw_rebuilt(**windows([flat], keep=((),)))
    assert texts(none).count("×") == len(BEATS) and not none.axes[1].patches


def lines(axis): return {o.get_label(): o for o in axis.get_lines()}


def test_windows_are_drawn_whole_and_the_rebuilt_one_where_it_was_hidden():
    given = windows([beating(BEATS + 0.05), beating(BEATS)])
    fig = draw_rebuilt(**given)
    assert len(fig.axes) == 4
    for i, (above, below) in enumerate(zip(fig.axes[::2], fig.axes[1::2])):
        assert np.array_equal(lines(above)["PPG"].get_ydata(), given["ppg"][i, 0])
        assert np.array_equal(lines(below)["ECG"].get_ydata(), given["ecg"][i, 0])
        assert shaded(below) == pytest.approx(2.0)
        shown = lines(below)["ECG, rebuilt"].get_ydata()
        assert np.isnan(shown[400:600]).all()
        assert np.array_equal(np.delete(shown, np.s_[400:600]),
                              np.delete(given["rebuilt"][i, 0], np.s_[400:600]))
        assert np.array_equal(lines(below)["R peak"].get_xdata(), BEATS)
        assert len(lines(below)["R peak, rebuilt"].get_xdata()) == HIDDEN.sum()
        assert below.get_ylim()[0] < -1 and below.get_ylim()[1] > 1


def test_beats_that_are_not_there_are_padding():
    padded = np.append(BEATS, [np.nan, np.nan])[None]
    fig = draw_rebuilt(**windows([beating(BEATS)], beats=padded))
    assert np.array_equal(lines(fig.axes[1])["R peak"].get_xdata(), BEATS)


@pytest.mark.parametrize("field, value", [
    ("ppg", np.zeros((1, 1, 999))), ("rebuilt", np.zeros((2, 1, 1000))), ("keep", np.arange(5)),
    ("beats", BEATS), ("titles", []), ("keep", np.zeros((3, 5), int)), ("keep", [[25]]),
    ("keep", [[-1]])])
def test_arrays_that_do_not_fit_are_refused(field, value):
    with pytest.raises(RequestError, match=field):
        draw_rebuilt(**windows([beating(BEATS)]) | {field: value})


# ---- courses ---------------------------------------------------------------------------------

def course(**columns):
    return pd.DataFrame(dict(step=np.arange(0, 500, 100)) | columns)


def levels(axis): return {o.get_text(): o.xy[1] for o in axis.texts}


def test_plateaus_stand_where_they_are():
    run = course(mse=0.08, explained=0.1, recall=[0.1, np.nan, 0.5, np.nan, 0.9])
    mse, explained, recall = draw_curve(dict(a=run), flat=0.1, mean_delay=0.088).axes
    assert levels(mse) == {"flat line": 0.1, "usual delay": 0.088}
    assert levels(explained) == pytest.approx({"flat line": 0, "usual delay": 0.12})
    assert levels(recall) == dict(enough=0.8)
    assert lines(recall)["a"].get_xydata().tolist() == [[0, 0.1], [200, 0.5], [400, 0.9]]
    alone = draw_curve(dict(a=run)).axes
    assert [set(levels(o)) for o in alone] == [set(), {"flat line"}, {"enough"}]


def test_runs_have_the_panels_of_what_they_measured():
    runs = dict(a=course(mse=0.08), b=course(recall=0.5), c=course(mse=0.02)[::-1])
    fig = draw_curve(runs)
    above, below = fig.axes
    assert {"a", "c"} <= set(lines(above)) and "b" not in lines(above)
    assert "b" in lines(below) and "a" not in lines(below)
    assert lines(above)["c"].get_xdata().tolist() == [0, 100, 200, 300, 400]
    assert sorted(o.get_text() for o in fig.legends[0].texts) == ["a", "b", "c"]
    colours = [lines(above)["a"].get_color(), lines(below)["b"].get_color()]
    assert len(set(colours)) == 2
    many = draw_curve({str(k): course(mse=0.1 * k) for k in range(12)}).axes[0].get_lines()
    assert len({(o.get_color(), o.get_linestyle()) for o in many}) == 12


@pytest.mark.parametrize("wrong, field", [
    (dict(runs={}), "runs"), (dict(runs=dict(a=pd.DataFrame(dict(mse=[1.0])))), "runs"),
    (dict(runs=dict(a=course(loss=1.0))), "runs"), (dict(runs=dict(a=course(mse=1.0)), flat=0), "flat"),
    (dict(runs=dict(a=course(mse=1.0)), mean_delay=np.nan), "mean_delay")])
def test_courses_without_content_are_refused(wrong, field):
    with pytest.raises(RequestError, match=field): draw_curve(**wrong)


# ---- tasks -----------------------------------------------------------------------------------

ROWS = ("Chance", "Random init", "CLIP", "xMAE")


def results(task, metric="auroc", means=(50, 60, 70, 80), n=35, **more):
    means = np.array(means, float)
    return pd.DataFrame(dict(task=task, row=ROWS, metric=metric, mean=means, low=means - 3,
                             high=means + 2, n=n) | more)


def dots(axis):
    return {y: x for o in axis.get_lines() if o.get_marker() == "o" for x, y in o.get_xydata()}


def test_each_task_has_a_panel_with_dots_and_intervals():
    frame = pd.concat([results("AF"), results("age", "mae", (9, 8, 7, np.nan), unit="years"),
                       results("rate", "r", (0, .5, .6, .7))])
    fig, = draw_tasks(frame, floors=ROWS[:2])
    af, age, rate = fig.axes
    assert dots(af) == {3: 50, 2: 60, 1: 70, 0: 80} and dots(age) == {3: 9, 2: 8, 1: 7}
    spans = [o.get_segments()[0].tolist() for o in af.collections]
    assert spans == [[[m - 3, y], [m + 2, y]] for m, y in ((50, 3), (60, 2), (70, 1), (80, 0))]
    assert texts(fig) == ["no result"]
    assert [o.get_text() for o in af.get_yticklabels()] == list(ROWS)
    assert af.get_title(loc="left") == "AF, n = 35"
    assert "%" in af.get_xlabel() and "years" in age.get_xlabel() and "less" in age.get_xlabel()
    dotted = [{o.get_xdata()[0] for o in axis.get_lines() if o.get_linestyle() == ":"}
              for axis in fig.axes]
    assert dotted == [{50}, set(), {0}]


def test_what_a_paper_printed_stands_beside_what_was_found():
    frame = pd.concat([results("AF", published=[np.nan, 55, np.nan, 90]), results("sex", published=np.nan)])
    fig, = draw_tasks(frame, floors=ROWS[:2])
    diamonds = [[(x, y) for o in axis.get_lines() if o.get_marker() == "D" for x, y in o.get_xydata()
                 if np.isfinite(x)] for axis in fig.axes]
    assert diamonds == [[(55, 2), (90, 0)], []] and dots(fig.axes[0]) == {3: 50, 2: 60, 1: 70, 0: 80}
    assert [o.get_text() for o in fig.legends[0].get_texts()] == ["paper, on other recordings"]
    assert not draw_tasks(results("AF"), floors=ROWS[:2])[0].legends


def test_ours_stands_out_and_floors_do_not():
    fig, = draw_tasks(results("AF"), floors=ROWS[:2])
    colours = {y: o.get_color() for o in fig.axes[0].get_lines() if o.get_marker() == "o"
               for y in o.get_ydata()}
    assert colours[0] == COLOURS["blue"] and colours[3] == colours[2] == COLOURS["grey"]
    assert colours[1] not in (COLOURS["blue"], COLOURS["grey"])
    bold = [o.get_text() for o in fig.axes[0].get_yticklabels() if o.get_weight() == "bold"]
    assert bold == ["xMAE"]


@pytest.mark.parametrize("tasks", [1, 4, 6, 7, 12, 13])
def test_many_tasks_are_shared_out_among_figures(tasks):
    frame = pd.concat([results(f"task {k}") for k in range(tasks)])
    figures = draw_tasks(frame)
    shown = [[o.get_title(loc="left").split(",")[0] for o in fig.axes if o.get_visible()]
             for fig in figures]
    assert sum(shown, []) == [f"task {k}" for k in range(tasks)]
    assert len(figures) == -(-tasks // 6) and max(map(len, shown)) - min(map(len, shown)) <= 2


def test_a_row_that_a_task_lacks_has_no_result_there():
    frame = pd.concat([results("AF"), results("age", "mae").query("row != 'CLIP'")])
    fig, = draw_tasks(frame)
    assert texts(fig) == ["no result"] and set(dots(fig.axes[1])) == {3, 2, 0}
    lost = results("AF", means=[np.nan] * 4, n=np.nan)
    assert texts(draw_tasks(lost)[0]) == ["no result"] * 4


@pytest.mark.parametrize("frame, more, said", [
    (results("AF").drop(columns=["low"]), {}, "low"), (results("AF")[:0], {}, "lines"),
    (pd.concat([results("AF")] * 2), {}, "twice"), (results("AF"), dict(floors=["Chanse"]), "Chance"),
    (results("AF"), dict(highlight=["ours"]), "ours"), (results("AF", "area"), {}, "area"),
    (pd.concat([results("AF"), results("AF", "r")]), {}, "several metrics")])
def test_frames_that_cannot_be_drawn_are_refused(frame, more, said):
    with pytest.raises(RequestError, match=said): draw_tasks(frame, **more)


# ---- house -----------------------------------------------------------------------------------

PICTURES = dict(masks=lambda: draw_masks(np.sin(np.arange(1000) / 9), generator()),
                rebuilt=lambda: draw_rebuilt(**windows([beating(BEATS)])),
                curve=lambda: draw_curve(dict(a=course(mse=0.08))),
                tasks=lambda: draw_tasks(results("AF"))[0])


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_is_the_same_file_and_fits_a_page(name, tmp_path):
    first, second = (PICTURES[name]() for _ in range(2))
    files = [save(o, tmp_path / k)[0].read_bytes() for o, k in zip((first, second), "ab")]
    assert files[0] == files[1]
    assert first.get_figwidth() <= 8.4
    assert all(o.get_xlabel() for o in first.axes[-1:])
