"""Modules: how they are shown, found, tied and watched, and what containers and optimizers refuse."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import launches
from reference import random

from alexnet_cuda import Tensor, nn, ops, optim

ROOT = Path(__file__).parents[1]


def two_layers() -> nn.Sequential:
    return nn.Sequential(
        conv1=nn.Conv2d(1, 2, 3, activation="relu"), body=nn.Sequential(nn.Flatten(), nn.Linear(8, 4, bias=False))
    )


class Held(nn.Module):
    """Layers and parameters in lists, tuples and dicts, some put there late."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[nn.Module] = []
        for _ in range(2):
            self.layers.append(nn.Linear(3, 3, bias=False))
        self.heads = {"a": (nn.Linear(3, 2, bias=False), "text"), "b": [nn.ReLU()]}
        self.scales = [nn.Parameter(np.ones(3, np.float32)), nn.Buffer(np.ones(3, np.float32))]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.heads["a"][0](x * self.scales[0])


# ---- shown and found


def test_a_network_is_shown_as_a_table() -> None:
    net = two_layers()
    net["conv1"].b.lr_scale = 0
    assert repr(net).splitlines() == [
        "Sequential                                             52",
        "  conv1     Conv2d      w (2, 3, 3, 1), b (2,) frozen  20",
        "  body      Sequential                                 32",
        "    0       Flatten                                     0",
        "    1       Linear      w (4, 8)                       32",
    ]


def test_named_children_and_modules() -> None:
    net = two_layers()
    assert [name for name, _ in net.named_children()] == [name for name, _ in net.children()] == ["conv1", "body"]
    assert [name for name, _ in net.named_modules()] == ["", "conv1", "body", "body.0", "body.1"]


def test_what_lists_and_dicts_hold_is_found() -> None:
    net = Held()
    names = ["scales.0", "layers.0.w", "layers.1.w", "heads.a.0.w"]
    assert [name for name, _ in net.named_parameters()] == names
    assert [name for name, _ in net.named_buffers()] == ["scales.1"]
    assert [name for name, _ in net.children()] == ["layers.0", "layers.1", "heads.a.0", "heads.b.0"]
    before = net.state()
    net.load_state({name: a + 1 for name, a in before.items()})
    assert (net.layers[1].w.data == before["layers.1.w"] + 1).all()
    assert not net.eval().layers[0].training
    sgd = optim.SGD(net.parameters(), lr=0.1)
    net(Tensor(random(2, 3))).sum().backward()
    sgd.step()
    assert all((a != before[name] + 1).any() for name, a in net.state().items() if name != "scales.1")


def test_training_needs_no_init_of_the_base() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(x)

    net = Forgetful()
    assert net.training and not net.eval().training and not net.drop.training


# ---- containers


def test_a_sequential_has_length_iteration_and_index() -> None:
    net = two_layers()
    conv, body = net
    assert len(net) == 2 and net[0] is conv is net["conv1"] and net[-1] is body
    part = net[:1]
    assert isinstance(part, nn.Sequential) and list(part) == [conv] and part["conv1"] is conv
    with pytest.raises(IndexError, match="Sequential: expected an index below 2, got 2"):
        net[2]
    with pytest.raises(KeyError, match=r"Sequential: expected one of conv1, body, got 'conv'; did you mean conv1\?"):
        net["conv"]


def test_a_list_of_modules() -> None:
    layers = nn.ModuleList([nn.ReLU()]).append(nn.Linear(2, 3)).extend([nn.Tanh()])
    assert len(layers) == 3 and [type(m).__name__ for m in layers] == ["ReLU", "Linear", "Tanh"]
    assert layers[-1] is list(layers)[2] and [name for name, _ in layers.named_parameters()] == ["1.w", "1.b"]
    with pytest.raises(TypeError, match="ModuleList: 3: expected a Module, got int"):
        layers.append(3)
    with pytest.raises(IndexError, match="ModuleList: expected an index below 3, got 3"):
        layers[3]
    with pytest.raises(TypeError, match="ModuleList: it holds modules and computes nothing"):
        layers(Tensor(random(2)))


def test_a_dict_of_modules() -> None:
    heads = nn.ModuleDict({"a": nn.ReLU()})
    heads["b"] = nn.Linear(2, 3)
    heads["a"] = replaced = nn.Tanh()
    assert list(heads) == heads.keys() == ["a", "b"] and len(heads) == 2 and "a" in heads and "c" not in heads
    assert heads.values()[0] is replaced is heads["a"] and dict(heads.items())["a"] is replaced
    assert [name for name, _ in heads.named_parameters()] == ["b.w", "b.b"]
    with pytest.raises(KeyError, match="ModuleDict: expected one of a, b, got 'c'"):
        heads["c"]
    with pytest.raises(TypeError, match="ModuleDict: c: expected a Module, got NoneType"):
        heads["c"] = None
    with pytest.raises(ValueError, match="ModuleDict: 'keys' is taken by Module"):
        heads["keys"] = nn.ReLU()
    with pytest.raises(TypeError, match="ModuleDict: it holds modules"):
        heads(Tensor(random(2)))


# ---- tied weights


class Tied(nn.Module):
    """A linear map and its transpose back: one array in two places, and a layer with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.w = self.first.w
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.second(self.first(x)))


def test_tied_weights_count_once_and_are_updated_once() -> None:
    net = Tied()
    w, x = net.first.w, random(2, 3)
    assert [name for name, _ in net.named_parameters()] == ["first.w"] and net.parameters() == [w]
    assert sum(1 for _ in net.modules()) == 3 and repr(net).splitlines()[0].split() == ["Tied", "9"]
    assert set(net.state()) == {"first.w", "second.w", "again.w"}  # each by its name, as PyTorch's state_dict
    before = w.data.astype(np.float64)
    sgd = optim.SGD([w, *net.parameters(), net.second.w], lr=0.5, momentum=0.0, decay=0.0)
    net(Tensor(x)).sum().backward()

    def loss(w: np.ndarray) -> float:
        return float((x @ w.T @ w.T @ w.T).sum())

    there = np.zeros((3, 3))
    for i in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i] = 1e-5
        there[i] = (loss(before + step) - loss(before - step)) / 2e-5
    np.testing.assert_allclose(w.grad, there, rtol=1e-4, atol=1e-5)
    sgd.step()
    np.testing.assert_allclose(w.data, before - 0.5 * there, rtol=1e-4, atol=1e-5)
    other = Tied()
    other.load_state(net.state())
    assert other.second.w is other.first.w and (other.first.w.data == w.data).all()


# ---- hooks


def test_forward_hooks_see_and_replace_outputs() -> None:
    net, seen = two_layers(), []
    with net["conv1"].register_forward_hook(lambda m, xs, y: seen.append((type(m).__name__, xs[0].shape, y.shape))):
        y = net(Tensor(random(1, 4, 4, 1)))
    assert seen == [("Conv2d", (1, 4, 4, 1), (1, 2, 2, 2))]
    hook = net["body"].register_forward_hook(lambda m, xs, y: y * 2)
    np.testing.assert_array_equal(net(Tensor(random(1, 4, 4, 1))).data, 2 * y.data)
    hook.remove()
    hook.remove()
    np.testing.assert_array_equal(net(Tensor(random(1, 4, 4, 1))).data, y.data)
    net.register_forward_hook(lambda m, xs, y: y.data)
    with pytest.raises(TypeError, match="Sequential: a forward hook returns a Tensor or None, got ndarray"):
        net(Tensor(random(1, 4, 4, 1)))


def test_backward_hooks_see_and_replace_gradients() -> None:
    net, seen = two_layers(), []
    conv = net["conv1"]

    def gradient() -> np.ndarray:
        conv.w.grad = None
        net(Tensor(random(2, 4, 4, 1))).sum().backward()
        return conv.w.grad

    plain = gradient()
    with conv.register_backward_hook(lambda m, dy: seen.append((m is conv, dy.copy()))):
        np.testing.assert_array_equal(gradient(), plain)
    ((same, dy),) = seen
    w = net["body"][1].w.data.sum(0).reshape(2, 2, 2)
    assert same
    np.testing.assert_allclose(dy, np.broadcast_to(w, dy.shape), rtol=1e-6)
    with conv.register_backward_hook(lambda m, dy: 2 * dy):
        np.testing.assert_allclose(gradient(), 2 * plain, rtol=1e-6)
    assert not conv.has_hooks
    for wrong, got in ((lambda m, dy: dy[:1], r"\(1, 2, 2, 2\) and float32"), (lambda m, dy: "x", "str")):
        with (
            conv.register_backward_hook(wrong),
            pytest.raises(ValueError, match=rf"Conv2d: a backward hook returns None or an array .* got {got}"),
        ):
            gradient()


def test_layers_with_hooks_are_not_fused() -> None:
    fused = nn.Sequential(lrn=nn.LocalResponseNorm(), pool=nn.MaxPool2d(3, 2))
    x, seen = Tensor(random(1, 7, 7, 8)), []
    with launches() as called:
        y = fused(x)
    assert "lrn_max_pool2d_forward" in called
    with fused["lrn"].register_forward_hook(lambda m, xs, y: seen.append(y.shape)), launches() as called:
        np.testing.assert_array_equal(fused(x).data, y.data)
    assert seen == [(1, 7, 7, 8)] and "lrn_max_pool2d_forward" not in called


# ---- optimizers


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (two_layers, TypeError, "got a Sequential: its are net.parameters"),
        (lambda: [], ValueError, "got none: has the network layers with weights, and are they its attributes"),
        (lambda: nn.ReLU().parameters(), ValueError, "got none"),
        (lambda: nn.Parameter(random(2)), TypeError, "got Parameter"),
        (lambda: 3, TypeError, "got int"),
        (lambda: [Tensor(random(2), True)], TypeError, r"got one with a Tensor: nn.Parameter\(values\) makes one"),
        (lambda: two_layers().named_parameters(), TypeError, "got one with a tuple"),
    ],
)
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_an_optimizer_says_what_it_wants(
    kind: Callable[..., Any], given: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{kind.__name__}: parameters: expected a list of Parameters, {message}"):
        kind(given())


# ---- networks that branch


def test_upsampling_repeats_pixels() -> None:
    x = Tensor(random(2, 3, 4, 5), requires_grad=True)
    y = nn.Upsample2d(3)(x)
    np.testing.assert_array_equal(y.data, x.data.repeat(3, 1).repeat(3, 2))
    dy = random(*y.shape, seed=1)
    y.backward(dy)
    np.testing.assert_allclose(x.grad, dy.reshape(2, 3, 3, 4, 3, 5).sum((2, 4)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"upsample2d: expected x of shape \(N, H, W, C\), got \(2, 3\)"):
        ops.upsample2d(Tensor(random(2, 3)))
    with pytest.raises(ValueError, match=r"Upsample2d: scale: expected an integer in \[1, "):
        nn.Upsample2d(0)


def test_residual_inception_and_unet_learn(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "own_networks.py"))["main"]
    results = main(["resnet", "inception", "unet"], epochs=4)
    assert min(results["resnet"], results["inception"]) > 0.85 and results["unet"] > 0.5
    shown = capsys.readouterr().out
    assert "      branches  ModuleDict" in shown and "of the noise's squares are gone" in shown
