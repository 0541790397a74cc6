"""Occlusion: a planted reader is found out, tiles are true where the finding is, numbers as counted."""
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from biossl.data.errors import MethodError, RequestError
from biossl.data.people_12lead import draw_person
from biossl.data.simulate_12lead import Site, simulate_12lead, sites
from biossl.evaluation.looking import (Look, aurocs, draw_look, falls, joined, lead_shares, looking, true_tiles)

V1 = 6


@pytest.fixture(scope="module")
def blocked():
    "Simulated people with a right bundle branch block."
    sim = simulate_12lead([draw_person(0, k) for k in range(120)])
    rows = [i for i, o in enumerate(sim.readings) if "CRBBB" in sites(o)]
    return sim.ecg[rows], [sites(sim.readings[i])["CRBBB"] for i in rows]


def reads(lead):
    "A reader of a single lead's energy."
    return lambda ecg: np.square(ecg[:, lead]).mean(-1, keepdims=True)


def test_who_reads_v1_alone_is_found_out(blocked):
    ecg, where = blocked
    people = np.arange(len(ecg)).astype(str)
    truth = true_tiles(where, np.zeros(len(ecg)), 10.0, 50)
    found = {name: Look(falls(reads(lead), ecg, 50)[..., 0], truth, people, ecg)
             for name, lead in (("V1", V1), ("aVF", 5))}
    for name, lead in (("V1", V1), ("aVF", 5)):
        there = np.abs(found[name].falls).sum((0, 2))
        assert there[lead] > 0 and not np.delete(there, lead).any()
    frame = looking(found, 100).set_index(["finding", "measure"])["value"]
    assert frame["V1", "share in true leads"] == 1 and frame["aVF", "share in true leads"] == 0
    alone = Look(*(o[:, [V1]] if o.ndim > 2 else o for o in (found["V1"].falls, truth, people, ecg)))
    assert np.nanmean(aurocs(alone)) > 0.8                  # and within it, the QRS more than T
    assert frame["V1", "AUROC"] > 0.55 > 0.5 > frame["aVF", "AUROC"]


def test_a_tile_hides_its_stretch_by_the_leads_mean_and_nothing_else():
    ecg, seen = np.random.default_rng(0).normal(size=(2, 12, 37)), []
    falls(lambda o: (seen.append(o.copy()), o.sum(1))[1], ecg, tiles=5)
    edges = [round(k * 37 / 5) for k in range(6)]
    assert len(seen) == 1 + 12 * 5 and np.array_equal(seen[0], ecg)
    for k, hidden in enumerate(seen[1:]):
        lead, tile = divmod(k, 5)
        part = slice(edges[tile], edges[tile + 1])
        np.testing.assert_array_equal(np.delete(hidden, lead, 1), np.delete(ecg, lead, 1))
        np.testing.assert_allclose(hidden[:, lead, part], np.broadcast_to(
            ecg[:, lead].mean(1)[:, None], hidden[:, lead, part].shape))
        outside = np.delete(np.arange(37), np.arange(37)[part])
        np.testing.assert_array_equal(hidden[:, lead, outside], ecg[:, lead, outside])


def test_falls_do_not_depend_on_how_many_are_asked_at_once():
    ecg = np.random.default_rng(0).normal(size=(7, 12, 40))
    np.testing.assert_allclose(falls(reads(2), ecg, 4, at_once=3), falls(reads(2), ecg, 4))


def test_several_scores_fall_as_each_alone():
    ecg = np.random.default_rng(0).normal(size=(3, 12, 40))
    both = falls(lambda o: np.concatenate([reads(2)(o), reads(7)(o)], 1), ecg, 4)
    for k, lead in enumerate((2, 7)): np.testing.assert_array_equal(both[..., [k]], falls(reads(lead), ecg, 4))


def test_true_tiles_are_those_with_enough_of_a_span():
    rng = np.random.default_rng(0)
    where = [Site((0, 7), tuple((a, a + d) for a, d in zip(rng.uniform(0, 28, 20), rng.uniform(0, .3, 20))))
             for _ in range(4)]
    starts, fine = np.array([0, 5, 12.5, 20.0]), np.arange(0, 10, 0.001)
    found = true_tiles(where, starts, 10.0, tiles=25, least=0.05)
    for k, (site, start) in enumerate(zip(where, starts)):
        inside = sum(((fine + start >= a) & (fine + start < b)).astype(float) for a, b in site.spans)
        amount = inside.reshape(25, -1).sum(1) * 0.001
        sure = np.abs(amount - 0.05) > 0.003
        np.testing.assert_array_equal(found[k, 0][sure], (amount >= 0.05)[sure])
        assert not np.delete(found[k], [0, 7], 0).any() and (found[k, 0] == found[k, 7]).all()


def test_numbers_are_as_counted_window_by_window():
    rng = np.random.default_rng(0)
    fall, truth = rng.normal(size=(6, 12, 8)), rng.random((6, 12, 8)) < 0.1
    truth[:, 4:] = False
    truth[0], truth[1] = False, True
    look = Look(fall, truth, np.array(list("aabbcc")), np.zeros((6, 12, 80)))
    slow = [roc_auc_score(truth[k].ravel(), fall[k].ravel()) for k in range(2, 6)]
    np.testing.assert_allclose(aurocs(look)[2:], slow)
    assert np.isnan(aurocs(look)[:2]).all()
    shares, chance = lead_shares(look)
    for k in range(2, 6):
        leads = [i for i in range(12) if truth[k, i].any()]
        assert shares[k] == pytest.approx(np.maximum(fall[k, leads], 0).sum() / np.maximum(fall[k], 0).sum())
        assert chance[k] == len(leads) / 12
    assert np.isnan(shares[:2]).all()                       # no lead, or all of them
    frame = looking(dict(x=look), 50).set_index("measure")
    assert frame.loc["AUROC", "value"] == pytest.approx(np.mean(slow))
    assert frame.loc["AUROC", "people"] == 2 and frame.loc["AUROC", "windows"] == 4


def test_a_map_at_random_is_at_chance(blocked):
    ecg, where = blocked
    truth = true_tiles(where, np.zeros(len(ecg)), 10.0)
    fall = np.random.default_rng(0).normal(size=truth.shape)
    frame = looking(dict(x=Look(fall, truth, np.arange(len(ecg)).astype(str), ecg)), 200).set_index("measure")
    for measure in ("AUROC", "share in true leads"):
        o = frame.loc[measure]
        assert abs(o["value"] - o["chance"]) < 0.05
    assert frame.loc["share in true leads", "chance"] == pytest.approx(4 / 12)


def test_only_so_many_windows_of_a_finding_are_looked_at(monkeypatch, blocked):
    import biossl.evaluation.knowledge as knowledge
    import biossl.train.launch as launch
    from biossl.evaluation import looking as room
    ecg, where = blocked

    class Windows:
        def batch(self, rows, keys): return dict(ecg=ecg[rows])
        def labels(self, key): return np.zeros(len(ecg)) if key == "start" else np.arange(len(ecg)).astype(str)

    class Run:
        class windowing: seconds = 10.0
        def source(self): return None, None, None

    monkeypatch.setattr(knowledge, "opened", lambda run: (Windows(), None))
    monkeypatch.setattr(launch, "split_rows", lambda run, windows, task: (None, np.arange(len(ecg))))
    monkeypatch.setattr(room, "placed_findings", lambda cohort, windows, rows: dict(
        block=(list(rows), list(where)), rare=([3], [where[3]])))
    asked = []
    monkeypatch.setattr(room, "nearness", lambda method, texts, device: (
        asked.append(texts), lambda ecg: np.concatenate([reads(0)(ecg), 2 * reads(0)(ecg)], 1))[1])
    texts = dict(right=dict(block="a", rare="b"), wrong=dict(block="c", rare="d"))
    found = room.looks_of(Run(), None, texts, most=2, tiles=4, device="cpu")
    assert asked == [["a", "c"], ["b", "d"]] and list(found) == ["right", "wrong"]
    for name, looks in found.items():
        assert looks["block"].subjects.tolist() == ["0", "1"] and looks["rare"].subjects.tolist() == ["3"]
    np.testing.assert_allclose(found["wrong"]["block"].falls, 2 * found["right"]["block"].falls)
    alone = room.looks_of(Run(), None, texts, findings=("rare", "none"), device="cpu")
    assert list(alone["right"]) == list(alone["wrong"]) == ["rare"]


def test_folds_are_joined_and_drawn():
    look = Look(np.ones((2, 12, 4)), np.ones((2, 12, 4), bool), np.array(["a", "b"]),
                np.random.default_rng(0).normal(size=(2, 12, 40)))
    assert len(joined([look, look]).falls) == 4
    fig = draw_look(look, [str(k) for k in range(12)])
    assert len(fig.axes[0].lines) == 12 and len(fig.axes[0].patches) == 48


@pytest.mark.parametrize("score, tiles, error", [
    (lambda o: o.sum((1, 2)), 4, MethodError), (lambda o: o.sum(1) * np.nan, 4, MethodError),
    (lambda o: o.sum(1)[1:], 4, MethodError),
    (reads(0), 41, RequestError), (reads(0), 0, RequestError)])
def test_what_cannot_be_asked_is_refused(score, tiles, error):
    with pytest.raises(error): falls(score, np.ones((2, 12, 40)), tiles)
