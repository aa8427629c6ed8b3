"""The memory plan: what a step is said to take is what it takes."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from alexnet_cuda import backend, command_line, kernels, memory, models, recipe, summary, trainer, training_step
from alexnet_cuda.backend import discovery, host
from alexnet_cuda.data import ArrayDataset, Data

MEASURE = """
import sys
import numpy as np
from alexnet_cuda import Tensor, backend, kernels, models, ops, optim, parallel

def resident(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return 1024 * int(line.split()[1])

model, batch, devices = models.get(sys.argv[1]), int(sys.argv[2]), backend.devices(sys.argv[3])
kernels.gemm(*np.ones((2, 300, 300), np.float32))  # BLAS has its buffers
before = resident("VmRSS")
network = parallel.build(model, sys.argv[3])
sgd, labels = optim.SGD(network.parameters()), Tensor(np.zeros(batch, np.int32))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew: initial weights are drawn in several arrays
for _ in range(3):
    x = backend.empty((batch, *model.input), np.float32, devices[0])
    x.fill(1)
    sgd.zero_grad()
    ops.softmax_cross_entropy(network(Tensor(x)), labels).backward()
    sgd.step()
print(resident("VmHWM") - before)
"""


def planner(name: str, devices: str = "cpu") -> memory.Planner:
    return memory.Planner(models.get(name), backend.devices(devices), recipe.load(name))


def unwritten(model: models.Model) -> int:
    """Bytes of the gradients that end in an update."""
    return sum(4 * row.weights for row in model.rows() if row.layer.name.startswith("fc"))


@pytest.mark.parametrize(
    ("name", "batch", "devices"),
    [
        ("alexnet-mini", 512, "cpu"),
        ("cifar-80sec", 512, "cpu"),
        ("cifar-18pct", 256, "cpu"),
        pytest.param("alexnet-single", 16, "cpu", marks=pytest.mark.slow),
        pytest.param("alexnet", 64, "cpu:0,cpu:1", marks=pytest.mark.slow),
    ],
)
def test_the_measured_peak_is_within_a_tenth(name, batch, devices):
    command = [sys.executable, "-c", MEASURE, name, str(batch), devices]
    alike = {**os.environ, "ALEXNET_THREADS": str(backend.threads())}
    measured = int(subprocess.run(command, capture_output=True, text=True, check=True, env=alike).stdout)
    planned = sum(plan.training for plan in planner(name, devices).plan(batch))
    assert abs(planned - measured) < measured / 10


def test_parameters_gradients_and_momentum_have_one_size():
    model = models.get("alexnet-mini")
    (plan,) = planner("alexnet-mini").plan(2)
    assert plan.parameters == plan.gradients + unwritten(model) == 4 * model.parameters
    assert 0 <= plan.optimizer - plan.parameters < 1 << 10  # besides momentum a few numbers
    assert plan.training > plan.inference > plan.parameters
    assert plan.activations == plan.training - plan.parameters - plan.gradients - plan.optimizer


def test_the_plan_is_that_of_the_recipe():
    model, cpu, made = models.get("alexnet-mini"), backend.devices("cpu"), recipe.load("alexnet-mini")
    full, half, adam = (
        memory.Planner(model, cpu, replace(made, **changes)).plan(256)[0]
        for changes in ({}, {"precision": "bf16"}, {"optimizer": "adam"})
    )
    assert half.activations < 0.8 * full.activations and half.parameters == full.parameters
    assert adam.optimizer > 1.9 * full.optimizer


def test_what_is_rehearsed_is_the_trainers_step(monkeypatch):
    """Parts of a batch, whose gradients are added up; the last part, of which other processes would be told; what ends
    in an update."""
    seen = []

    class Watched(training_step.TrainingStep):
        def __call__(self, parts, look):
            parts = list(parts)
            seen.append([(len(part.labels.data), part.share, part.last) for part in parts])
            super().__call__(parts, look)

    for room in (memory, trainer):
        monkeypatch.setattr(room, "TrainingStep", Watched)
    made = replace(recipe.load("alexnet-mini"), batch=8, accumulate=2, epochs=1)
    planned = memory.Planner(models.get("alexnet-mini"), backend.devices("cpu"), made)
    (plan,) = planned.plan(4)
    assert seen == [[(4, 0.5, False), (4, 0.5, True)]] * memory.STEPS
    assert plan.gradients == plan.parameters and planned.optimizer.updates == memory.STEPS
    images = ArrayDataset(np.zeros((8, 32, 32, 3), np.uint8), np.zeros(8, np.int32), tuple("0123456789"))
    trainer.Trainer.of(made, Data(images, images, "", False), "cpu").fit(lambda step: None, lambda epoch: None)
    assert seen[-1] == seen[0] and len(seen) == memory.STEPS + 1


def test_a_plan_has_room_to_add_gradients_up():
    model, cpu, made = models.get("alexnet-mini"), backend.devices("cpu"), recipe.load("alexnet-mini")
    whole, parts = (memory.Planner(model, cpu, replace(made, accumulate=n)).plan(64)[0] for n in (1, 3))
    assert whole.training < parts.training < whole.training + parts.gradients


def test_what_runs_beside_a_recorded_step_counts(monkeypatch):
    """On a GPU a recording keeps its memory: the gradients of the step before it, or the tests between epochs, which
    take more with a large batch, come on top."""
    monkeypatch.setitem(sys.modules, "alexnet_cuda._gpu", backend.native(backend.Device("cpu")))
    monkeypatch.setattr(discovery, "gpus", list)
    model, gpu, made = models.get("alexnet-mini"), [backend.Device("cuda")], recipe.load("alexnet-mini")
    eager, recorded = (memory.Planner(model, gpu, replace(made, graph=graph)) for graph in (False, True))
    for batch, more in ((1, "gradients"), (256, "inference")):
        (first,), (second,) = eager.plan(batch), recorded.plan(batch)
        beside = {"gradients": first.gradients, "inference": first.inference - first.parameters}
        assert max(beside, key=beside.get) == more
        assert second == replace(first, training=first.training + beside[more])
    limit = [recorded.plan(256)[0].training]
    assert recorded.largest_batch(limit) <= 258 < eager.largest_batch(limit)


def test_a_gpu_has_no_blas_that_spares_a_workspace(monkeypatch):
    monkeypatch.setattr(host, "openblas", object)
    cpu = backend.device("cpu")
    rehearsal = backend.Rehearsal(cpu)
    with backend.rehearsing(rehearsal):
        assert backend.uses_blas(cpu)
        rehearsal.capability = 8, 0
        assert not backend.uses_blas(cpu)


def test_each_tower_has_its_own_device():
    plans = planner("alexnet-mini", "cpu:0,cpu:1").plan(8)
    held = sum(plan.parameters for plan in plans)
    assert [plan.device for plan in plans] == ["cpu", "cpu:1"] and held == 4 * models.get("alexnet-mini").parameters
    assert all(0 < plan.gradients < plan.parameters < plan.training for plan in plans)
    assert held == sum(plan.gradients for plan in plans) + unwritten(models.get("alexnet-mini"))


def test_the_largest_batch_is_the_last_that_fits():
    plans = planner("cifar-18pct")
    limit = plans.plan(300)[0].training
    largest = plans.largest_batch([limit])
    assert plans.plan(largest)[0].training <= limit < plans.plan(largest + 4)[0].training
    assert plans.largest_batch([1 << 18]) == 0


def test_a_rehearsal_computes_nothing_and_leaves_nothing_behind():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (plan,) = planner("alexnet-mini").plan(100_000)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert plan.training > 8 << 30 and grown < 64 << 20
    assert type(backend.empty((2,), np.float32, backend.Device("cpu"))) is np.ndarray
    assert kernels.gemm(*np.ones((2, 3, 3), np.float32)).sum() == 27
    rehearsed = planner("alexnet-mini")
    with backend.rehearsing(rehearsed.rehearsal):
        backend.constant(np.array([5], np.int32), backend.Device("cpu"))
    assert backend.constant(np.array([5], np.int32), backend.Device("cpu"))[0] == 5


def test_joining_arrays_of_a_rehearsal_writes_nothing():
    cpu = backend.device("cpu")
    with backend.rehearsing(backend.Rehearsal(cpu)) as rehearsal:
        x, y = (backend.empty((2**20, 2**10, width), np.float32, cpu) for width in (5, 7))  # 20 and 28 GiB
        joined = np.concatenate([x, y], axis=-1)
        assert (type(joined), joined.shape, joined.dtype) == (type(x), (2**20, 2**10, 12), np.float32)
        assert rehearsal.held[cpu] >> 30 == 4 * (5 + 7 + 12)
        assert np.concatenate((x, x)).shape == (2**21, 2**10, 5)


def test_arrays_of_a_rehearsal_have_the_types_of_numpys():
    cpu = backend.device("cpu")
    x = np.ones((2, 3), np.float32)
    with backend.rehearsing(backend.Rehearsal(cpu)):
        blank = backend.empty((2, 3), np.float32, cpu)
        for function in (
            lambda x: 2 * x,
            lambda x: x**2,
            lambda x: x / 0.5,
            lambda x: x * np.float32(2),
            lambda x: x * np.float64(2),
            lambda x: x + np.ones(3),
            lambda x: x > 0,
        ):
            assert function(blank).dtype == function(x).dtype


def test_the_command_tells_it(capsys):
    assert command_line.run(summary.main, ["--model", "alexnet-mini", "--batch", "64", "--memory", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (plan,) = planner("alexnet-mini").plan(64)
    assert told["devices"][0]["training"] == plan.training and told["batch"] == 64 < told["largest_batch"]
    assert command_line.run(summary.main, ["--model", "alexnet-mini", "--memory", "--device", "cpu:0,cpu:1"]) == 0
    assert "cpu:1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory"], "--memory: of which --model?"),
        (["--memory", "--model", "caffenet", "--device", "cpu:0,cpu:1"], "caffenet"),
        (["--memory", "--model", "alexnet-mini", "--device", "gpu"], "unknown device"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, capsys):
    assert command_line.run(summary.main, arguments) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_a_plan_for_gpus_needs_their_module(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "alexnet_cuda._gpu", None)
    assert command_line.run(summary.main, ["--memory", "--model", "alexnet-mini", "--device", "cuda:0"]) == 1
    assert "a plan for cuda:0 needs the module for GPUs" in capsys.readouterr().err
