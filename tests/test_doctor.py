"What a large corpus would cost: from its card, and from what is measured on files written here."
import os

import pytest

import biossl.doctor as doctor
from biossl.cohorts.mimic_iv_ecg import MimicIvEcg
from biossl.cohorts.registry import get_cohort
from biossl.doctor import (CORPUS_PLANS, CorpusPlan, activation_bytes, corpus_flops, corpus_frame,
                           ecg_flops, learn_speed, pack_seconds, written_sample)


@pytest.mark.parametrize("size, encoder, decoder", [
    ("tiny", .42, .97), ("mini", 2.7, None), ("small", 9.6, 13.4), ("paper", 36.2, 13.4)])
def test_operations_are_those_of_the_layers(size, encoder, decoder):
    "n S (24 d^2 + 4 S d) forwards: 300 tokens seen, 1,200 rebuilt; learning is three forwards."
    from biossl.nn.leads import SIZES
    o = SIZES[size]
    def forward(n, s, d): return n * s * (24 * d**2 + 4 * s * d)
    seen, rebuilt = forward(o.depth, 300, o.width), forward(o.decoder_depth, 1200, o.decoder_width)
    assert ecg_flops(size) == 3 * (seen + rebuilt)
    assert seen / 1e9 == pytest.approx(encoder, rel=.02)
    if decoder: assert rebuilt / 1e9 == pytest.approx(decoder, rel=.02)


def test_the_paper_is_hours_on_one_large_gpu_and_more_than_24_gb():
    plan = CORPUS_PLANS["paper"]
    assert 5e18 < corpus_flops(plan, 779_891) < 7.1e18            # with the smaller text encoder
    assert activation_bytes(plan) / 512 == pytest.approx((62.7 + 41.8) * 1e6, rel=.01)
    twice = CorpusPlan(plan.size, plan.text, 2 * plan.epochs, plan.batch)
    assert corpus_flops(twice, 100) == 2 * corpus_flops(plan, 100)


def test_the_whole_corpus_is_scaled_from_what_was_measured(monkeypatch):
    monkeypatch.setattr(doctor, "pack_seconds", lambda rates: [.01 * i for i in range(1, 1 + len(rates))])
    monkeypatch.setattr(doctor, "learn_speed", lambda size, batch: 1e12)
    monkeypatch.setattr(doctor, "gpus", lambda: [])
    frame = corpus_frame().set_index("what")
    fine, coarse = (frame.loc[f"packed at {o} Hz"] for o in (500, 100))
    assert fine.gb == pytest.approx(192.0084) and coarse.gb == pytest.approx(38.40168)
    assert fine.hours == pytest.approx(800_035 * .01 / 3600) and coarse.hours == 2 * fine.hours
    assert fine.memory_gb == coarse.memory_gb < .1               # one recording, not the cohort
    paper = frame.loc[[o for o in frame.index if o.startswith("paper")][0]]
    assert paper.hours == pytest.approx(400 * paper.gpu_hours) and 3 < paper.gpu_hours < 6
    assert set(CORPUS_PLANS) == {o.split(":")[0] for o in frame.index if ":" in o}


def test_what_is_measured_is_packed_in_the_publishers_layout_and_nothing_stays(tmp_path, home):
    written_sample(tmp_path, 4)
    cohort = MimicIvEcg(shards=2, shard=1)
    assert cohort.count(tmp_path) == 4 and len(list(cohort.recordings(tmp_path))) == 2
    one = next(MimicIvEcg().recordings(tmp_path)).signal("ecg")
    assert one.rate == 500 and one.samples.shape == (12, 5000)
    before = os.environ["BIOSSL_HOME"]
    slow, fast = pack_seconds((500.0, 100.0), 2)
    assert slow > 0 and fast > 0 and os.environ["BIOSSL_HOME"] == before
    assert not (home / "store").exists()


def test_the_users_folder_is_given_back_after_a_failure(home, monkeypatch):
    monkeypatch.setattr(doctor, "written_sample", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): pack_seconds((100.0,))
    assert os.environ["BIOSSL_HOME"] == str(home)
    monkeypatch.delenv("BIOSSL_HOME")
    with pytest.raises(ZeroDivisionError): pack_seconds((100.0,))
    assert "BIOSSL_HOME" not in os.environ


def test_learning_is_measured_on_the_size_that_is_asked_for(monkeypatch):
    import biossl.evaluation.cost as cost
    seen = []
    monkeypatch.setattr(cost, "stages", lambda method, batch: seen.append(
        (method.name, method.size.width, tuple(batch["ecg"].shape))) or dict(pretrain=lambda: sum(
            range(100_000))))
    assert learn_speed("mini", 3, 1) > 0
    assert seen == [("st_mem", 192, (3, 12, 1000))]


def test_doctor_tells_of_it(home, monkeypatch):
    import pandas as pd
    made = pd.DataFrame([dict(what="packed at 1 Hz", gb=1.0, hours=2.0)])
    monkeypatch.setattr(doctor, "corpus_frame", lambda: made)
    text = doctor.report()
    card = get_cohort("mimic_iv_ecg").card
    assert "packed at 1 Hz" in text and f"{card.recordings:,} recordings (96 GB to fetch)" in text
