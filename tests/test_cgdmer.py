"""CG-DMER: who is told which reports, what each switch changes, and what a loss of weight 0 leaves out."""
import numpy as np
import pytest
import torch

from biossl.data.errors import MethodError
from biossl.methods.contract import check_method, get_method, load_method, save_method
from biossl.train.pretrain import pretrain
from biossl.train.profiles import Schedule

FEW = dict(size="tiny", patches=10, words=2, hidden=32, out=16)
TEXTS = ("sinus rhythm. normal ecg.", "atrial fibrillation. left axis.", "sinus tachycardia. st depression.",
         "sinus rhythm. normal ecg.", "left bundle branch block.", "right axis. sinus rhythm.")


class Written:
    "Windows in memory with a report each; nothing in the eighth, a word in the seventh."
    cohort = "written"
    def __init__(self, texts=(*TEXTS, "unreadable", "")):
        self.texts = np.array(texts, object)
        self.ecg = np.random.default_rng(0).normal(size=(len(texts), 12, 1000)).astype("float32")
    def labels(self, key): return self.texts
    def batch(self, rows, keys=(), out=None): return dict(ecg=self.ecg[rows], row=np.asarray(rows))


def generator(seed=0): return torch.Generator().manual_seed(seed)


def prepared(rows=range(6), **hyper):
    method = get_method("cgdmer", **(FEW | hyper))
    method.prepare(Written(), np.array(rows))
    return method


def loss_of(method, rows=range(6), seed=1):
    with torch.no_grad(): return method.eval().loss(Written().batch(np.array(rows)), generator(seed))


ALONE = dict(w_siglip=0., w_ecg=0., w_text=0., w_orth=0.)   # the contrast
SWITCHES = [
    {}, dict(objective="printed"), dict(contrast="dcl"), dict(contrast="literal"), dict(siglip_scale="one"),
    dict(siglip_reduction="mean"), dict(siglip_normalise=False), dict(same_text="ignore"),
    dict(rec_reduction="sum"), dict(norm_patch=True), dict(decoder="per_lead"), dict(mask="global"),
    dict(text_rec="mlm"), dict(sentinel="span"), dict(align_on="full"), dict(align_text_on="clean"),
    dict(sp_use="decode"), dict(feature="both"), dict(feature="shared"), dict(level="word"),
    dict(ALONE, ratio=0., text_ratio=0.), ALONE, dict(w_contrast=0.)]


@pytest.mark.parametrize("hyper", SWITCHES, ids=str)
def test_the_contract_is_kept_with_every_switch(hyper):
    check_method(prepared(**hyper), Written().batch(np.arange(6)), tolerance=1e-3)


@pytest.mark.parametrize("hyper", [o for o in SWITCHES[1:18] if "feature" not in o], ids=str)
def test_every_switch_changes_the_loss_of_equal_weights(hyper):
    plain, other = prepared(text_ratio=.6), prepared(text_ratio=.6, **hyper)
    same = {k: v for k, v in plain.state_dict().items()
            if k in other.state_dict() and v.shape == other.state_dict()[k].shape}
    other.load_state_dict(same, strict=False)
    assert not torch.isclose(loss_of(plain).total, loss_of(other).total, rtol=1e-5)


def test_the_loss_is_the_sum_of_its_parts_by_weight():
    weights = dict(w_contrast=.5, w_ecg=2., w_text=3., w_orth=5., w_siglip=.1)
    plain, said = loss_of(prepared()), loss_of(prepared(**weights))
    assert set(plain.parts) == {"contrast", "ecg", "text", "orth", "siglip"}
    assert plain.total == pytest.approx(sum(float(o) for o in plain.parts.values()))
    for name, part in said.parts.items(): assert float(part) == pytest.approx(float(plain.parts[name]))
    assert float(said.total) == pytest.approx(sum(weights[f"w_{k}"] * float(o) for k, o in said.parts.items()))


def test_as_printed_nothing_draws_the_ecg_and_the_rest_is_the_same():
    printed, without = loss_of(prepared(objective="printed")), loss_of(prepared(w_ecg=0.))
    assert torch.equal(printed.total, without.total) and "ecg" not in printed.parts
    assert prepared(objective="printed").draws is None
    assert float(loss_of(prepared()).total - printed.total) == pytest.approx(float(loss_of(prepared()).parts["ecg"]))


def test_what_has_no_weight_is_not_there():
    method = prepared(**ALONE, ratio=0., text_ratio=0.)
    assert {k.split(".")[0] for k, _ in method.named_parameters()} == {"encoder", "text", "heads"}
    assert set(loss_of(method).parts) == {"contrast"} and not method.heads.specific
    views = method.views(Written().batch(np.arange(6)), generator())
    assert "keep" not in views[0] and "shown" not in views[1]


def test_vocabulary_and_reports_are_those_of_the_rows_that_are_trained_on():
    method = prepared(rows=(0, 1, 2, 3))
    ids = method.text.tokenizer(["sinus rhythm", "bundle"])
    assert method.text.tokenizer.unknown(ids)[0] == 0 < method.text.tokenizer.unknown(ids)[1]
    with pytest.raises(MethodError, match="row"): method.views(Written().batch(np.array([4])), generator())
    for one in (method, prepared(rows=(2, 0, 3, 1))):
        told = one.reports(Written().batch(np.array([3, 1, 0])))
        assert told["number"][0] == told["number"][2] != told["number"][1]
        own = torch.from_numpy(one.text.tokenizer([TEXTS[o] for o in (3, 1, 0)]).astype(np.int64))
        assert torch.equal(told["ids"][:, :own.shape[1]], own)


def test_windows_without_a_report_of_use_are_not_learned_from():
    method = get_method("cgdmer", **FEW)
    assert method.usable(Written(), np.arange(8)).tolist() == [0, 1, 2, 3, 4, 5]
    assert get_method("cgdmer", **(FEW | dict(words=1))).usable(Written(), np.arange(8)).tolist() == [*range(7)]
    with pytest.raises(MethodError, match="2 windows have no report of use"):
        method.prepare(Written(), np.arange(8))
    with pytest.raises(MethodError, match="no window has a report"): method.usable(Written(), np.array([6, 7]))
    with pytest.raises(MethodError, match="prepare"): method.reports(Written().batch(np.arange(2)))
    losses = pretrain(method, Written(), np.arange(8), Schedule(epochs=1, batch=3, lr=1e-4))
    assert len(losses) == 2 and method.told.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_label_that_is_no_text_is_no_report():
    windows = Written()
    windows.texts = np.arange(8)
    with pytest.raises(MethodError, match="written, report: is no text"): prepared().usable(windows, range(8))
    windows.texts = np.array([*TEXTS, None, ""], object)
    assert prepared().usable(windows, range(8)).tolist() == [0, 1, 2, 3, 4, 5]


def test_equal_reports_are_negatives_unless_they_are_ignored():
    rows = np.array([0, 3])                                            # one text
    negative, ignored = (prepared(rows=rows, same_text=o, **ALONE, ratio=0., text_ratio=0.)
                         for o in ("negative", "ignore"))
    assert float(loss_of(ignored, rows).total) == pytest.approx(0, abs=1e-6)
    assert float(loss_of(negative, rows).total) > .1


def test_what_is_saved_describes_texts_and_places_windows_as_before(tmp_path):
    method = prepared().eval()
    again = load_method(save_method(method, tmp_path / "method")).eval()
    asked, batch = ["atrial fibrillation.", "sinus rhythm. normal ecg."], Written().batch(np.arange(3))
    assert torch.equal(method.describe(asked), again.describe(asked))
    assert torch.equal(method.place(batch), again.place(batch))
    assert torch.allclose(method.describe(asked).norm(dim=1), torch.ones(2))


def test_features_are_what_they_are_named_after():
    batch = Written().batch(np.arange(4))
    made = {o: prepared(feature=o).eval().embed(batch) for o in ("encoder", "shared", "both")}
    assert [made[o].shape[1] for o in made] == [64, 16, 80]
    assert torch.allclose(made["both"], torch.cat([made["encoder"], made["shared"]], 1), atol=1e-6)


@pytest.mark.parametrize("wrong", [
    dict(ratio=0.), dict(text_ratio=0.), dict(w_contrast=0., w_siglip=0.), dict(sp_use="decode", w_ecg=0.),
    dict(contrast="clip"), dict(text="huge"), dict(level="letter"), dict(folder="/nowhere"),
    dict(objective="equation 10"), dict(same_text="merge"), dict(feature="specific")], ids=str)
def test_configurations_that_make_no_sense(wrong):
    with pytest.raises(MethodError): get_method("cgdmer", **(FEW | wrong))


def test_pairs_find_each_other_and_what_is_specific_is_looked_at():
    method, batch = prepared(ratio=.5, w_orth=1., w_siglip=0.), Written().batch(np.arange(6))
    pretrain(method, Written(), np.arange(6), Schedule(epochs=6, batch=6, lr=3e-3))
    with torch.no_grad():
        found, near = method.eval().diagnose(batch), method.place(batch) @ method.describe(TEXTS).T
        parts = method.heads(method.encoder(method.read(batch)), method.text(method.reports(batch)["ids"]))
    own = [TEXTS[i] == TEXTS[int(k)] for i, k in enumerate(near.argmax(1))]
    assert found["rows"] == 6 and found["texts"] == 5
    assert found["retrieved"] == pytest.approx(np.mean(own)) and 0 < np.mean(own) < 1
    for key in ("ecg", "text"):
        a, b = (getattr(parts, f"{o}_{key}").double().numpy() for o in ("shared", "specific"))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert found[f"{key}_cos2"] == pytest.approx(np.mean(cosine ** 2), rel=1e-4)
        assert 1 <= found[f"{key}_rank"] <= 6
    assert set(prepared(w_orth=0.).eval().diagnose(batch)) == {"rows", "texts", "retrieved"}


# ---- ETP and MERL

RIVALS = [("etp", {}), ("merl", {}), ("etp", dict(encoder="trans", patches=10)),
          ("merl", dict(encoder="trans", patches=10))]


def rival(name, **hyper):
    method = get_method(name, **(dict(words=2, out=16) | hyper))
    method.prepare(Written(), np.arange(6))
    return method


@pytest.mark.parametrize("name, hyper", RIVALS, ids=str)
def test_rivals_keep_the_contract_and_place_ecg_and_text_together(name, hyper):
    method = rival(name, **hyper)
    check_method(method, Written().batch(np.arange(6)), tolerance=1e-3)
    assert method.place(Written().batch(np.arange(3))).shape == (3, 16) == method.describe(["a", "b", "c"]).shape


def cross_entropy(a, b, tau):
    "Of finding row i of `b` with row i of `a`, by plain loops in float64."
    a, b = (np.asarray(o.detach(), float) for o in (a, b))
    a, b = (o / np.linalg.norm(o, axis=1, keepdims=True) for o in (a, b))
    return np.mean([np.log(sum(np.exp(a[i] @ o / tau) for o in b)) - a[i] @ b[i] / tau for i in range(len(a))])


@pytest.mark.parametrize("name", ["etp", "merl"])
def test_rivals_losses_by_plain_loops(name):
    method = rival(name, **(dict(drop=0.) if name == "merl" else {})).eval()
    batch = Written().batch(np.arange(6))
    with torch.no_grad(): said = method.loss(batch, generator())
    ecg, ids = method.encode(method.read(batch)), method.reports(batch)["ids"]
    a, b = method.shared_ecg(ecg), method.shared_text(method.text(ids))
    both = cross_entropy(a, b, .07) + cross_entropy(b, a, .07)
    if name == "etp": assert float(said.total) == pytest.approx(both / 2, rel=1e-4)
    else:
        copy = method.again(ecg)
        assert float(said.total) == pytest.approx(both + 2 * cross_entropy(copy, copy, .07), rel=1e-4)
        dropping = rival("merl", drop=.5).eval()
        dropping.load_state_dict(method.state_dict())
        with torch.no_grad():
            assert torch.equal(dropping.loss(batch, generator()).parts["alone"], said.parts["alone"])
            dropping.training = True                       # itself, and nothing within: no batch norm
            copies = dropping.loss(batch, generator())
        assert copies.parts["alone"] != said.parts["alone"] and copies.parts["cross"] == said.parts["cross"]


# ---- C-MELT

def cmelt(**hyper): return rival("cmelt", size="tiny", patches=10, **hyper)


@pytest.mark.parametrize("hyper", [{}, dict(fusion=3), dict(swap=0.), dict(lead_drop=0., strangers=1)], ids=str)
def test_c_melt_keeps_the_contract(hyper):
    check_method(cmelt(**hyper), Written().batch(np.arange(6)), tolerance=1e-3)


def test_strangers_reports_are_as_many_as_asked_for_and_are_not_ones_own():
    method, rows = cmelt(strangers=2), np.arange(6)
    shares, leads, met = [], [], {o: set() for o in range(6)}
    for seed in range(60):
        ecg, report = method.views(Written().batch(rows), generator(seed))
        own = torch.from_numpy(method.told.ids[method.told.number(rows)].astype(np.int64))
        same = (report["ids"] == own).all(1)
        assert torch.equal(same, report["own"])
        shares.append(float(same.float().mean()))
        assert ecg["there"].dtype == torch.bool and ecg["there"].shape == (6, 12, 1)
        leads.append(float(ecg["there"].float().mean()))
        for o in rows[~same.numpy()]: met[o].add(tuple(report["ids"][o].tolist()))
    assert .4 < np.mean(shares) < .6 and .45 < np.mean(leads) < .55
    far = method.told.ids[method.far[method.told.number(rows)]]
    assert met == {o: {tuple(k) for k in far[o].tolist()} for o in rows}        # both of them, and no other
    assert cmelt(lead_drop=0.).views(Written().batch(rows), generator())[0]["there"].all()
    assert all(cmelt(swap=0.).views(Written().batch(rows), generator(o))[1]["own"].all() for o in range(5))


def test_the_least_alike_share_no_word_where_they_can():
    from biossl.methods.cmelt import least_alike
    ids = np.array([[2, 7, 8, 3], [2, 7, 9, 3], [2, 10, 11, 3], [2, 8, 7, 3]])
    far = least_alike(ids, (0, 1, 2, 3), most=1)
    assert far[:, 0].tolist() == [2, 2, 0, 2] and least_alike(ids, (0, 1, 2, 3)).shape == (4, 3)
    assert all(k not in row for k, row in enumerate(least_alike(ids, (0,))))
    with pytest.raises(MethodError, match="same report"): least_alike(ids[:1], (0,))


def test_the_matched_sigmoid_by_plain_loops():
    from biossl.methods.cmelt import matched_sigmoid
    rng = np.random.default_rng(0)
    a, b, own = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), np.array([1, 0, 1, 1, 0], bool)
    terms = [np.log1p(np.exp(-(1 if i == j and own[i] else -1) * a[i] @ b[j])) for i in range(5) for j in range(5)]
    said = matched_sigmoid(*(torch.from_numpy(o) for o in (a, b, own)))
    assert float(said) == pytest.approx(np.mean(terms), rel=1e-5)


def test_whole_leads_are_left_out_and_drawn_all_the_same():
    method, rows = cmelt(), np.arange(6)
    views = method.eval().views(Written().batch(rows), generator())
    with torch.no_grad():
        said = method(views)
        changed = [dict(views[0], x=views[0]["x"] * views[0]["there"]), views[1]]
        other = method(changed)                  # what is left out is not read, but is asked for
    for part in ("text", "match", "sigmoid"): assert torch.equal(said.parts[part], other.parts[part])
    assert said.parts["ecg"] != other.parts["ecg"]
    with pytest.raises(MethodError, match="two layers"): get_method("cmelt", fusion=1)
