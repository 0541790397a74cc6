"""SSL-TSG's training: crops and lessons, adopted weights, paces, and runs with many labels."""
import copy

import numpy as np
import pandas as pd
import pytest
import torch

from biossl.data.errors import MethodError, SplitError
from biossl.data.store import Windowing
from biossl.methods.contract import get_method, load_method, save_method
from biossl.methods.dino import Dino
from biossl.nn.layers import parameters
from biossl.train.finetune import falling, tuning
from biossl.train.jobs import windows_in
from biossl.train.launch import launch, pretrained
from biossl.train.loop import keep_pace, optimiser_of
from biossl.train.pretrain import pretrain, pretraining
from biossl.train.profiles import Schedule
from biossl.train.runs import Run, inner_part, split_rows, truth_of

LEADS = Windowing(signals=(("ecg", 100.0),), seconds=10, hop=10)
BRIEF = Schedule(epochs=1, batch=16, steps=2, tune_epochs=2, tune_batch=16, tune_lr=1e-3,
                 weight_decay=0.0, tune_fall=.002)
SMALL = (("out", 64), ("hidden", 64), ("bottleneck", 16), ("crops", (("n_local", 2),)))
TIME, SSL = ("domains", ("time",)), (("start", "ssl"), ("dino", SMALL))


def crops(n=4, samples=1000, seed=0):
    return dict(ecg=torch.randn(n, 12, samples, generator=torch.Generator().manual_seed(seed)))


class Stand:
    "Windows without a store."
    def __init__(self, x): self.x = x["ecg"].numpy()
    def __len__(self): return len(self.x)
    def batch(self, rows, keys): return dict(ecg=self.x[rows])


# -- the methods ---------------------------------------------------------------------------------
@pytest.mark.parametrize("domain", ["time", "spectrogram"])
def test_arms_that_begin_with_pre_training_have_every_one_of_its_weights(domain):
    dino = get_method("dino", seed=3, domain=domain, **dict(SMALL))
    dino.student.mean.add_(1)
    arm = get_method("tsg", seed=4, domains=(domain,), start="ssl", dino=SMALL)
    before = {k: v.clone() for k, v in arm.state_dict().items()}
    arm.adopt([dino])
    told = {f"branches.{domain}.{k}": v for k, v in dino.student.state_dict().items()}
    assert set(told) == set(before)
    assert all(torch.equal(arm.state_dict()[k], v) for k, v in told.items())
    assert any(not torch.equal(before[k], v) for k, v in told.items())


def test_weights_of_another_domain_or_one_too_few_are_refused():
    arm = get_method("tsg", start="ssl")
    dino = get_method("dino", **dict(SMALL))
    with pytest.raises(MethodError, match="does not take all weights"): arm.adopt([dino, dino])
    with pytest.raises(ValueError): arm.adopt([dino])
    del dino.student.mean
    with pytest.raises(MethodError, match="mean"):
        get_method("tsg", domains=("time",), start="ssl").adopt([dino])


def test_only_arms_with_pre_training_have_origins():
    def origins(**hyper): return Run("r", "tsg", tuple(hyper.items())).origins
    assert origins() == origins(start="kaiming") == ()
    both = origins(start="ssl", dino=SMALL, lead_copy=True)
    assert [dict(o[1])["domain"] for o in both] == ["time", "spectrogram"]
    assert all(dict(o[1])["lead_copy"] and dict(o[1])["out"] == 64 for o in both)


def test_kaiming_start_keeps_the_zero_gains_that_xavier_takes_away():
    def zeros(start):
        gains = (p for k, p in get_method("tsg", start=start).branches["time"].named_parameters()
                 if p.ndim == 1)
        return sum(bool((o == 0).all()) and o.numel() == 256 for o in gains)
    assert zeros("kaiming") - zeros("xavier") == 16


def test_lessons_are_five_crops_of_each_recording_with_its_labels():
    x = dict(ecg=torch.arange(3)[:, None, None] * 1e4 + torch.arange(1000.0).expand(3, 12, 1000))
    truth = torch.eye(3)
    batch, told = get_method("tsg", **dict([TIME])).lessons(x, truth, torch.Generator().manual_seed(0))
    assert batch["ecg"].shape == (15, 12, 250) and torch.equal(told, truth.repeat_interleave(5, 0))
    assert torch.equal(batch["ecg"][:, 0, 0] // 1e4, torch.arange(3.0).repeat_interleave(5))
    steps = batch["ecg"].diff(dim=-1)
    assert (steps == 1).all()


def test_answers_are_the_mean_of_the_probabilities_of_seven_crops():
    method, x = get_method("tsg", **dict([TIME])).eval(), crops(2)
    head = method.head(24).eval()
    with torch.no_grad():
        said = method.answer(head, x, many=True)
        each = [head(method.branches["time"](x["ecg"][..., s:s + 250])).double().sigmoid()
                for s in range(0, 751, 125)]
    assert len(each) == 7
    torch.testing.assert_close(said, torch.stack(each).mean(0), rtol=0, atol=1e-6)
    one = method.answer(head, dict(ecg=x["ecg"][:1]), many=True)
    torch.testing.assert_close(one, said[:1], rtol=0, atol=1e-6)


def test_classifiers_apart_learn_as_if_each_were_alone():
    method, x, truth = get_method("tsg", fusion="mean").train(), crops(6, 250), torch.eye(6, 24)
    head = method.head(24)
    method.taught(head, x, truth).backward()
    alone = copy.deepcopy(method)
    alone.zero_grad()
    with torch.no_grad(): copied = copy.deepcopy(head.heads[0])
    copied.zero_grad()
    logits = copied(alone.branches["time"](x["ecg"]))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, truth).backward()
    for mine, theirs in zip(method.branches["time"].parameters(),
                            alone.branches["time"].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        both = head.each(method.eval().embed(crops(2, 250)))
        torch.testing.assert_close(head(method.embed(crops(2, 250))), (both[0] + both[1]) / 2)


def test_frozen_branches_do_not_move_and_do_not_learn_their_norms():
    method = get_method("tsg", frozen=True, **dict([TIME]))
    before = {k: v.clone() for k, v in method.branches.state_dict().items()}
    course = tuning(method, method.head(24), np.arange(8), np.eye(8, 24), 24, BRIEF)
    course.model.train()
    optimiser = optimiser_of(course)
    head = [p.clone() for p in course.model["head"].parameters()]
    course.loss([crops(8, 250), dict(truth=torch.eye(8, 24))]).backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in method.branches.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(head, course.model["head"].parameters()))


def test_copied_leads_are_lead_one():
    x = crops(2)
    method = get_method("tsg", lead_copy=True, **dict([TIME])).eval()
    other = dict(ecg=x["ecg"].clone())
    other["ecg"][:, 1:] = 7
    with torch.no_grad():
        assert torch.equal(method.embed(x), method.embed(other))
        plain = get_method("tsg", **dict([TIME])).eval()
        assert not torch.equal(plain.embed(x), plain.embed(other))


def test_magnitudes_are_normalised_by_training_rows_alone():
    x = crops(6)
    x["ecg"][3:] *= 100
    method = get_method("tsg", domains=("spectrogram",))
    method.prepare(Stand(x), [0, 1, 2])
    z = method.branches["spectrogram"].front(x["ecg"][:3, :, :250])
    assert abs(z.mean()) < .1 and abs(z.std() - 1) < .1
    leak = get_method("tsg", domains=("spectrogram",), stats="all")
    leak.prepare(Stand(x), [0, 1, 2])
    assert leak.branches["spectrogram"].sd > 10 * method.branches["spectrogram"].sd


# -- DINO's pace -----------------------------------------------------------------------------------
def dino(**hyper): return get_method("dino", **(dict(SMALL) | hyper))


def test_the_last_layer_waits_for_its_epoch_and_then_moves():
    method, store = dino(), Stand(crops(16))
    schedule = Schedule(epochs=2, batch=8, lr=1e-3)
    first = method.student_head.prototypes.detach().clone()
    for steps, still in ((2, True), (3, False)):
        other = copy.deepcopy(method)
        pretrain(other, store, np.arange(16), Schedule(epochs=2, batch=8, lr=1e-3, steps=steps))
        assert torch.equal(other.student_head.prototypes, first) == still
    never = dino(freeze=0.0)
    pretrain(never, store, np.arange(16), schedule.but(steps=1))
    assert never.student_head.prototypes.requires_grad


def test_decay_rises_for_kernels_only_and_the_rate_warms_up():
    method = dino()
    course = pretraining(method, Schedule(epochs=60, batch=8, lr=1e-3), 8)
    optimiser = optimiser_of(course)
    rates, decays = [], []
    for step in range(course.steps):
        keep_pace(course, optimiser, step)
        rates.append(optimiser.param_groups[0]["lr"])
        decays.append([o["weight_decay"] for o in optimiser.param_groups])
    assert rates[0] == 0 and max(rates) == pytest.approx(1e-3) and rates[-1] < 1e-5
    assert all(b == 0 for _, b in decays) and decays[0][0] == pytest.approx(.04)
    assert decays[-1][0] == pytest.approx(.4, abs=1e-3) and np.all(np.diff([a for a, _ in decays]) > 0)
    assert all(p.ndim > 1 for p in optimiser.param_groups[0]["params"])
    everything = dino(decay_all=True).groups(1.0)
    assert len(everything) == 1
    assert sum(p.numel() for p in everything[0]["params"]) == sum(
        p.numel() for p in method.parameters() if p.requires_grad)


def test_the_centre_moves_to_what_the_teacher_said_and_twice_divided_hardly():
    moved = {}
    for divisions in (1, 2):
        method = dino(divisions=divisions).train()
        method.loss(crops(8), torch.Generator().manual_seed(0))
        method.after_step(0, 10)
        moved[divisions] = method.centre.clone()
    torch.testing.assert_close(moved[2] * 16, moved[1])   # two global views of eight
    assert moved[1].abs().max() > 0


def test_local_views_are_as_short_as_asked_and_go_through_the_network_apart(monkeypatch):
    seen = []
    for hyper in (dict(), dict(crops=(("n_local", 2), ("local_len", 250)))):
        method = dino(**hyper).train()
        method.student.network.register_forward_hook(
            lambda _, args, out: seen.append(tuple(args[0].shape)))
        method.loss(crops(3), torch.Generator().manual_seed(0))
    assert seen == [(6, 12, 250), (6, 12, 100), (12, 12, 250)]


def test_a_pre_training_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    def trained(**more):
        method = dino()
        losses = pretrain(method, Stand(crops(16)), np.arange(16),
                          Schedule(epochs=4, batch=8, lr=1e-3), seed=5, **more)
        return method, losses

    class Killed(Exception): pass

    def dies(self, step, steps):
        if step == 5: raise Killed
        return Dino.before(self, step, steps)

    whole, losses = trained()
    Dino.before = Dino.after_step
    Dino.after_step = dies
    try:
        with pytest.raises(Killed): trained(checkpoint=tmp_path / "c", every=2)
    finally:
        Dino.after_step = Dino.before
        del Dino.before
    again, resumed = trained(checkpoint=tmp_path / "c", every=2)
    assert resumed == losses
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in again.state_dict().items())


def test_diagnosis_sees_a_teacher_that_says_one_thing():
    method = dino()
    healthy = method.diagnose(crops(32))
    with torch.no_grad(): method.teacher_head.prototypes[0] = method.teacher_head(
        method.teacher(crops(1)["ecg"][..., :250])).new_zeros(16) + 1
    for p in method.teacher_head.mlp.parameters(): p.data.zero_()
    method.teacher_head.mlp[-1].bias.data.fill_(1)
    fallen = method.diagnose(crops(32))
    assert fallen["classes"] == 1 and fallen["entropy"] < healthy["most_entropy"] == np.log(64)
    assert healthy["rows"] == 32 and healthy["feature_sd"] > 0


# -- fine-tuning with many labels -----------------------------------------------------------------
def test_the_rate_falls_by_half_a_cosine_as_published():
    said = [5e-3 * falling(epoch - 1, 100, 1e-5 / 5e-3) for epoch in (1, 50, 100)]
    assert said == pytest.approx([4.99877e-3, 2.505e-3, 1e-5], rel=1e-5)


def test_labels_that_never_differ_are_refused():
    method = get_method("tsg", **dict([TIME]))
    for truth in (np.zeros((4, 24)), np.ones((4, 24))):
        with pytest.raises(SplitError, match="all the same"):
            tuning(method, method.head(24), np.arange(4), truth, 24, BRIEF)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOSSL_HOME", str(tmp_path_factory.mktemp("home")))
        yield patch


def a_run(row, method="tsg", hyper=(TIME,), judge="finetune", schedule=BRIEF, **more):
    return Run(row, method, hyper, "simulated_12lead", (("subjects", 48),), LEADS, "dx", folds=2,
               judge=judge, schedule=schedule, **more)


@pytest.fixture(scope="module")
def ran(home):
    runs = [a_run("T"), a_run("SSL-T", hyper=(TIME, *SSL)),
            a_run("chosen on test", schedule=BRIEF.but(select="test")),
            a_run("probe", "dino", (("domain", "time"), *SMALL), "probe"),
            a_run("chance", "chance", (), "probe"),
            a_run("by recording", split="recording"), a_run("gate", hyper=())]
    return runs, launch(runs, workers=1, progress=False).whole()


def test_predictions_are_one_row_a_recording_and_nobody_stands_on_two_sides(ran):
    runs, launched = ran
    for name, frame in launched.predictions.groupby("row"):
        assert frame.recording.is_unique
        inner = launched.inner[launched.inner.row == name]
        assert len(inner) and not set(inner.subject) & set(frame.subject)
        record = next(o for o in launched.records if o["row"] == name)
        assert record["n_inner"] == len(inner) and record["n_test"] == len(frame)
        assert record["n_train"] + record["n_test"] == 48
    scores = launched.predictions.filter(like="score_")
    assert scores.shape[1] == 24 and ((scores >= 0) & (scores <= 1)).all(axis=None)
    windows = windows_in(str(_folder(runs[0])))
    truth = truth_of(windows, runs[0].source()[0].task("dx"))
    frame = launched.predictions[launched.predictions.row == "T"]
    assert np.array_equal(frame.filter(like="truth_").to_numpy(), truth[frame.window])


def _folder(run):
    from biossl.data.store import store_folder, store_key
    return store_folder(store_key(*run.source()))


def test_the_inner_part_is_held_out_of_the_training_side(ran):
    run = ran[0][0]
    windows, task = windows_in(str(_folder(run))), run.source()[0].task("dx")
    train, test = split_rows(run, windows, task)
    fit, inner = inner_part(run, windows, task, train)
    assert sorted([*fit, *inner]) == sorted(train) and not set(inner) & set(test)
    assert abs(len(inner) - len(train) / 8) <= 3


def test_weights_are_pre_trained_once_for_all_that_begin_with_them(ran, home, tmp_path):
    from biossl.data.places import home as root
    folders = list((root() / "weights").iterdir())
    assert len(folders) == 1   # SSL-T and the probe share them
    method, losses = pretrained(next(o for o in ran[0] if o.row == "probe"), "cpu")
    assert losses and method.name == "dino"
    record = next(o for o in ran[1].records if o["row"] == "SSL-T")
    assert record["found"]["time_rows"] == record["n_train"]
    assert record["final_loss"] == pytest.approx(losses[-1])


def test_an_epoch_chosen_on_test_recordings_is_said_and_leaves_nothing_behind(ran):
    from biossl.data.places import home as root
    record = next(o for o in ran[1].records if o["row"] == "chosen on test")
    assert record["epoch"] in (1, 2) and record["schedule"]["select"] == "test"
    assert not list((root() / "checkpoints").glob("*.npy"))


def test_a_choice_among_epochs_needs_no_whole_epoch(ran):
    run = a_run("one step", schedule=BRIEF.but(select="inner", steps=1))
    record = launch([run], workers=1, progress=False).whole().records[0]
    assert record["epoch"] == 1


def test_chance_says_how_frequent_each_label_is(ran):
    frame = ran[1].predictions
    scores = frame[frame.row == "chance"].filter(like="score_")
    assert np.allclose(scores.std(), 0, atol=1e-5) and scores["score_NSR"].iloc[0] > .3


def test_the_gate_says_how_much_it_gives_to_each(ran):
    frame = ran[1].predictions
    gate = frame[frame.row == "gate"]
    assert np.allclose(gate.aside_time + gate.aside_spectrogram, 1, atol=1e-5)
    assert frame[frame.row == "T"].aside_time.isna().all()


def test_thresholds_and_other_choices_that_train_nothing_share_a_run(home):
    one, other = a_run("a"), a_run("b", schedule=BRIEF.but(thresholds="test"))
    assert one.key == other.key
    assert one.key != a_run("c", schedule=BRIEF.but(select="test")).key
    assert a_run("d", hyper=(TIME, *SSL)).key != a_run(
        "d", hyper=(TIME, *SSL), schedule=BRIEF.but(sees="all")).key


def test_a_saved_arm_answers_as_before(tmp_path):
    method = get_method("tsg", seed=2).eval()
    again = load_method(save_method(method, tmp_path / "m")).eval()
    with torch.no_grad(): assert torch.equal(method.embed(crops(2)), again.embed(crops(2)))
    assert parameters(method) == parameters(again)


def test_recordings_of_several_windows_are_answered_once(ran):
    from biossl.train.execution import by_recording
    frame = pd.DataFrame(dict(recording=["a", "a", "b"], window=[4, 5, 6],
                              aside_time=[.2, .4, .9]))
    made = by_recording(frame, ("x", "y"), np.array([[1, 0], [1, 0], [0, 1]]),
                         np.array([[.2, .4], [.4, .8], [.5, .5]]))
    assert made.window.tolist() == [4, 6] and made.truth_x.tolist() == [1, 0]
    assert np.allclose(made[["score_x", "score_y"]], [[.3, .6], [.5, .5]])
    assert np.allclose(made.aside_time, [.3, .9])
