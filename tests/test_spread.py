"""Two processes learn what one learns; a cluster computes what this machine computes."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from biossl.data.store import Windowing, pack
from biossl.methods.contract import get_method, load_method
from biossl.nn.views import Share, augment, permute
from biossl.train.launch import launch
from biossl.train.pretrain import pretrain
from biossl.train.profiles import Schedule
from biossl.train.runs import Run

SCHEDULE = Schedule(epochs=2, batch=8, lr=1e-4)
CASES = [("tsta", {}), ("tsta", dict(pairs="shuffled", cross_views="all", original=False)),
         ("simclr", {}), ("clip", {}), ("clip", dict(learned_tau=False))]


class Stand:
    "A store in memory, two signals."
    def __init__(self, n=24, samples=96):
        rng = np.random.default_rng(0)
        self.arrays = {o: rng.normal(size=(n, 1, samples)).astype("float32") for o in ("ecg", "ppg")}
    def batch(self, rows, keys): return {k: self.arrays[k][rows] for k in keys}
    def labels(self, key): return np.array([f"{key}{i // 4}" for i in range(24)])


def method_of(name, hyper): return get_method(name, seed=1, dropout=0.0, stem_dropout=0.0, **hyper)


WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from accelerate import Accelerator
from test_spread import *
from biossl.data.errors import MethodError
from biossl.methods.contract import save_method
from biossl.train.spread import pretrain_spread
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True, mixed_precision="no")
rank, folder = accelerator.process_index, Path(sys.argv[2])

class Counting(Stand):
    read = 0
    def batch(self, rows, keys):
        Counting.read += len(rows)
        return super().batch(rows, keys)

class Stopped(Exception): pass

class Dying(Stand):
    calls = 0
    def batch(self, rows, keys):
        self.calls += 1
        if self.calls > 4: raise Stopped
        return super().batch(rows, keys)

def train(name, hyper, windows, **more):
    method = method_of(name, hyper)
    losses = pretrain_spread(method, windows, range(24), SCHEDULE, accelerator=accelerator, **more)
    return method, losses

said = []
for i, (name, hyper) in enumerate(CASES):
    method, losses = train(name, hyper, Counting())
    said.append(losses)
    save_method(method, folder / f"{rank}-{i}")
more = dict(checkpoint=folder / "checkpoint", every=2)
try: train(*CASES[0], Dying(), **more)
except Stopped: accelerator.wait_for_everyone()
kept = (folder / "checkpoint").is_file()
accelerator.wait_for_everyone()
method, resumed = train(*CASES[0], Stand(), **more)
try: pretrain_spread(get_method("byol"), Stand(), range(24), SCHEDULE, accelerator=accelerator)
except MethodError as e: refused = str(e)
(folder / f"{rank}.json").write_text(json.dumps(dict(
    world=accelerator.num_processes, losses=said, read=Counting.read, kept=kept, resumed=resumed,
    refused=refused, gone=not (folder / "checkpoint").exists())))
"""


def in_processes(n, command, cwd, **env):
    "Run a Python command in `n` processes that know of each other, as `accelerate launch` does."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    facts = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(n),
                 OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo",
                 LOCAL_WORLD_SIZE=str(n), **env)
    made = [subprocess.Popen([sys.executable, *command], cwd=cwd, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True,
                             env=facts | dict(RANK=str(i), LOCAL_RANK=str(i))) for i in range(n)]
    try:
        outs = [o.communicate(timeout=900)[0] for o in made]
    finally:
        for o in made: o.kill()
    assert [o.returncode for o in made] == [0] * n, "\n".join(outs)
    return outs


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    "What two processes wrote."
    folder = tmp_path_factory.mktemp("spread")
    in_processes(2, ["-c", WORKER, os.path.dirname(__file__), str(folder)], folder)
    return folder, [json.loads((folder / f"{o}.json").read_text()) for o in (0, 1)]


@pytest.mark.parametrize("i", range(len(CASES)), ids=[f"{o}{len(h) or ''}" for o, h in CASES])
def test_two_processes_learn_what_one_learns(spread, i):
    folder, told = spread
    method = method_of(*CASES[i])
    before = torch.cat([p.detach().flatten().clone() for p in method.parameters()])
    losses = pretrain(method, Stand(), range(24), SCHEDULE)
    assert len(losses) == 6
    for rank in (0, 1):
        np.testing.assert_allclose(told[rank]["losses"][i], losses, atol=1e-5)
        theirs = load_method(folder / f"{rank}-{i}").state_dict()
        for name, value in method.state_dict().items():
            np.testing.assert_allclose(theirs[name], value, atol=1e-5, err_msg=name)
    after = torch.cat([p.detach().flatten() for p in method.parameters()])
    assert ((after - before).abs() > 1e-4).float().mean() > .5         # it went somewhere


def test_each_process_reads_its_own_windows_only_and_one_keeps_the_state(spread):
    for told in spread[1]:
        assert told["world"] == 2 and told["read"] == len(CASES) * 6 * 4
        assert told["kept"] and told["gone"]
        np.testing.assert_allclose(told["resumed"], told["losses"][0], atol=1e-6)
        assert "BatchNorm" in told["refused"]


@pytest.mark.parametrize("view", [lambda x, g: augment(x, g, 42.0), permute])
def test_shares_of_a_batch_make_up_the_whole(view):
    x, seed = torch.randn(12, 2, 300), torch.Generator
    whole = view(x, seed().manual_seed(7))
    for world in (2, 3, 4):
        parts = [view(o, Share(seed().manual_seed(7), rank, world))
                 for rank, o in enumerate(x.chunk(world))]
        assert torch.equal(torch.cat(parts), whole)


def entry(tmp_path, processes, out):
    "The documented command, on CPUs; the folder it made."
    hyper = dict(encoder="conv", dropout=0.0, stem_dropout=0.0)
    command = ["-m", "biossl.train.spread", "--method", "simclr", "--profile", "smoke",
               "--batch", "8", "--lr", "1e-4", "--hyper", json.dumps(hyper), "--out", str(out)]
    in_processes(processes, command, tmp_path, BIOSSL_HOME=str(tmp_path / "home"), BIOSSL_DATA="")
    return out


def test_the_command_makes_the_same_method_in_one_process_and_in_two(tmp_path):
    one, two = (entry(tmp_path, n, tmp_path / f"out{n}") for n in (1, 2))
    a, b = (load_method(o / "method").state_dict() for o in (one, two))
    for name, value in a.items(): np.testing.assert_allclose(b[name], value, atol=1e-5)
    losses = [json.loads((o / "losses.json").read_text()) for o in (one, two)]
    assert len(losses[0]) == 1
    np.testing.assert_allclose(*losses, atol=1e-5)
    assert not list((tmp_path / "home" / "checkpoints").glob("*"))


def test_a_cluster_says_what_this_machine_says(home, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "300s")
    schedule = Schedule(epochs=1, steps=1, batch=8, tune_epochs=1)
    methods = [("chance", (), "probe"), ("simclr", (("encoder", "conv"),), "probe"),
               ("simclr", (("encoder", "conv"),), "finetune")]
    runs = [Run(f"{method} {judge}", method, hyper, options=(("seconds", 60.0), ("subjects", 6)),
                windowing=Windowing(seconds=10.0), fold=fold, folds=2, schedule=schedule, judge=judge)
            for method, hyper, judge in methods for fold in (0, 1)]
    monkeypatch.setenv("BIOSSL_HOME", str(home / "there"))
    pack(*runs[0].source())
    with (distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None)
          as cluster, distributed.Client(cluster)):
        there = launch(runs, backend="dask", progress=False).whole()
    assert len(there.records) == 6
    monkeypatch.setenv("BIOSSL_HOME", str(home / "here"))
    here = launch(runs, workers=1, progress=False).whole()
    assert there.predictions.equals(here.predictions)
    assert [o["final_loss"] for o in there.records] == [o["final_loss"] for o in here.records]
