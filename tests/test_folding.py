"""Networks folded for inference: what they were, in fewer layers, for the catalogue and for layers in any order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16
from numpy.testing import assert_array_equal

from alexnet_cuda import Tensor, backend, init, models, nn, no_grad, ops
from alexnet_cuda.folding import folded
from alexnet_cuda.models.layers import Conv2d, Layer, Linear

SMALL = [name for name in models.names() if name.startswith("cifar") or name == "alexnet-mini"]
LARGE = [name for name in models.names() if name not in SMALL]


def with_statistics(network: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """The network, its normalisation as if trained: of all signs, and in one channel of scale 0; biases not 0."""
    rng = np.random.default_rng(seed)
    state = network.state()
    for name, array in state.items():
        which = name.rpartition(".")[2]
        if which in ("beta", "running_mean", "b"):
            state[name] = rng.normal(0, 0.5, array.shape).astype(np.float32)
        elif which == "gamma":
            state[name] = rng.normal(0.5, 1, array.shape).astype(np.float32)
            state[name][0], state[name][-1] = -0.7, 0
        elif which == "running_variance":
            state[name] = rng.uniform(0.1, 2, array.shape).astype(np.float32)
    network.load_state(state)
    return network


def narrow(model: models.Model) -> models.Model:
    """The same layers, with an eighth of the filters."""
    layers = list[Layer]()
    for layer in model.layers:
        if isinstance(layer, Conv2d):
            layer = replace(layer, channels=layer.channels // 8)
        elif isinstance(layer, Linear):
            layer = replace(layer, features=layer.features // 64)
        layers.append(layer)
    return replace(model, layers=tuple(layers))


def check(network: nn.Sequential, x: np.ndarray) -> nn.Sequential:
    """The folded network, after comparing the outputs and seeing that the network stayed as it was."""
    before = network.state()
    result = folded(network)
    for name, array in network.state().items():
        assert_array_equal(array, before[name], err_msg=name)
    network.eval()
    with no_grad():
        expected, got = (net(Tensor(x)).numpy().astype(np.float64) for net in (network, result))
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
    return result


def kinds(network: nn.Sequential) -> list[str]:
    return [type(m).__name__ for _, m in network.children()]


def random_images(model: models.Model, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, *model.input), np.float32)


# ---- the catalogue


def check_model(model: models.Model) -> None:
    network = with_statistics(model.build("cpu"))
    result = check(network, random_images(model))
    kept = [name for name, _ in result.children()]
    assert kept == [name for name, _ in network.children() if name in kept]
    assert set(kinds(result)) <= {
        "Conv2d", "Local2d", "Linear", "MaxPool2d", "AvgPool2d", "LocalResponseNorm", "SpatialResponseNorm", "Flatten",
        *(["ReLU"] if model.name == "alexnet-2012" else []),  # LRN is between the layer and its ReLU
    }  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_small_models(name: str) -> None:
    check_model(models.get(name))


@pytest.mark.parametrize("name", LARGE)
def test_large_models_made_narrow(name: str) -> None:
    check_model(narrow(models.get(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_models(name: str) -> None:
    check_model(models.get(name))


def test_a_network_in_training_stays_so() -> None:
    model = models.get("alexnet-mini")
    network = model.build("cpu")
    assert not any(m.training for m in (folded(network), folded(network)["fc8"]))
    assert all(m.training for m in network.modules())


# ---- layers in any order


def images(channels: int = 4, size: int = 7) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((3, size, size, channels), np.float32)


RNG = np.random.default_rng(3)
DRAWN: dict[str, Any] = {"bias_init": init.normal(0.5), "rng": RNG}


def conv(channels: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, 6, 3, **DRAWN, **options)


def local(**options: Any) -> nn.Local2d:
    return nn.Local2d((7, 7), 4, 6, 3, **DRAWN, **options)


def linear(features: int) -> nn.Linear:
    return nn.Linear(features, 5, **DRAWN)


def norm(channels: int, positive: bool = False) -> nn.BatchNorm:
    """As if trained; ``positive``: with scales that a maximum lets through."""
    result = nn.BatchNorm(channels)
    with_statistics(nn.Sequential(result))
    if positive:
        result.gamma = nn.Parameter(np.abs(result.gamma.numpy()))
    return result


def paper() -> nn.Dropout:
    return nn.Dropout(0.3)


def inverted() -> nn.Dropout:
    return nn.Dropout(0.3, "inverted")


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([conv(), norm(6), nn.ReLU()], "Conv2d"),
        ([conv(padding=1), norm(6), nn.ReLU(), nn.MaxPool2d(2)], "Conv2d MaxPool2d"),
        ([conv(bias=False), norm(6), nn.Tanh()], "Conv2d Tanh"),
        ([conv(activation="tanh"), norm(6), nn.LocalResponseNorm()], "Conv2d BatchNorm LocalResponseNorm"),
        ([norm(4), conv()], "Conv2d"),
        ([norm(4), conv(padding=1)], "BatchNorm Conv2d"),
        ([norm(4), conv(padding=((0, 0), (0, 1)))], "BatchNorm Conv2d"),
        ([norm(4), conv(padding=(0, (1, 0)))], "BatchNorm Conv2d"),
        ([norm(4), conv(stride=3, ceil=True)], "BatchNorm Conv2d"),
        ([norm(4), conv(groups=2)], "Conv2d"),
        ([paper(), conv(padding=1, bias=False)], "Conv2d"),
        ([conv(activation="relu"), paper(), nn.LocalResponseNorm()], "Conv2d LocalResponseNorm"),
        ([conv(activation="sigmoid"), paper(), nn.LocalResponseNorm()], "Conv2d Dropout LocalResponseNorm"),
        ([nn.LocalResponseNorm(), paper(), paper()], "LocalResponseNorm Dropout"),
        ([nn.LocalResponseNorm(), paper(), norm(4), paper()], "LocalResponseNorm BatchNorm"),
        ([inverted(), inverted()], ""),
        ([norm(4), inverted(), norm(4), conv(activation="tanh")], "Conv2d"),
        ([nn.Flatten(), paper(), linear(196), paper()], "Flatten Linear"),
        ([norm(4), nn.AvgPool2d(3, 2, 1), nn.Flatten(), linear(64)], "AvgPool2d Flatten Linear"),
        ([norm(4), nn.MaxPool2d(3, 2), nn.Flatten(), linear(36)],
         "BatchNorm MaxPool2d Flatten Linear"),
        ([norm(4, positive=True), nn.MaxPool2d(3, 2), nn.Flatten(), linear(36)],
         "MaxPool2d Flatten Linear"),
        ([norm(4), nn.Flatten(), norm(196), nn.Tanh()], "Flatten BatchNorm Tanh"),
        ([conv(), nn.Flatten(), norm(150), nn.Tanh()], "Conv2d Flatten BatchNorm Tanh"),
        ([conv(), nn.Flatten(), paper(), nn.Tanh()], "Conv2d Flatten Tanh"),
        ([conv(), nn.ReLU(), paper(), nn.Tanh()], "Conv2d Tanh"),
        ([conv(), nn.ReLU(), norm(6), nn.Tanh()], "Conv2d BatchNorm Tanh"),
        ([nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()], "ReLU MaxPool2d ReLU"),
        ([conv(), nn.MaxPool2d(2), nn.ReLU(), nn.ReLU()], "Conv2d MaxPool2d"),
        ([conv(activation="tanh"), nn.ReLU()], "Conv2d ReLU"),
        ([nn.MaxPool2d(2), nn.ReLU()], "MaxPool2d ReLU"),
        ([nn.Sequential(conv(), norm(6)), nn.Sequential(nn.ReLU(), paper()), nn.Tanh()], "Conv2d Tanh"),
        ([local(bias=False), norm(6), nn.ReLU()], "Local2d"),
        ([norm(4), local(groups=2)], "Local2d"),
        ([norm(4), local(padding=1)], "BatchNorm Local2d"),
    ],
    ids=lambda value: None if isinstance(value, list) else value.replace(" ", "-") or "nothing",
)  # fmt: skip
def test_orders_of_layers(layers: list[nn.Module], left: str) -> None:
    result = check(nn.Sequential(*layers), images())
    assert " ".join(kinds(result)) == left


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Layers over images (3, 7, 7, 4), in any order that fits."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    drawn: dict[str, Any] = {"bias_init": init.normal(0.5), "rng": rng}
    activations: st.SearchStrategy[ops.Activation | None] = st.sampled_from([None, "relu", "relu", "tanh"])
    H, C, layers = 7, 4, list[nn.Module]()
    features = 0

    def anywhere() -> nn.Module:
        one = draw(st.sampled_from(["norm", "positive norm", "dropout", "inverted", "relu", "tanh"]))
        channels = features or C
        if one in ("norm", "positive norm"):
            return norm(channels, positive=one == "positive norm")
        if one == "dropout":
            return nn.Dropout(draw(st.sampled_from([0.0, 0.3, 0.5])))
        return {"inverted": inverted, "relu": nn.ReLU, "tanh": nn.Tanh}[one]()

    for one in draw(st.lists(st.sampled_from(["any", "any", "conv", "local", "max", "avg", "lrn"]), max_size=6)):
        if one == "any":
            layers.append(anywhere())
        elif one == "conv":
            padding, groups, filters = draw(st.integers(0, 1)), draw(st.sampled_from([1, 2])), 4
            bias, ceil = draw(st.booleans()), draw(st.booleans())
            activation = draw(activations)
            layers.append(nn.Conv2d(C, filters, 1 + 2 * padding, 1, padding, groups, ceil, activation, bias, **drawn))
        elif one == "local":
            layers.append(nn.Local2d((H, H), C, 4, 1, groups=2, activation=draw(activations), **drawn))
        elif one in ("max", "avg"):
            layers.append({"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[one](3, 1, 1))
        else:
            layers.append(nn.LocalResponseNorm(3, alpha=0.1))
    if draw(st.booleans()):
        layers.append(nn.Flatten())
        features = H * H * C
        for one in draw(st.lists(st.sampled_from(["any", "linear"]), max_size=4)):
            if one == "any":
                layers.append(anywhere())
            else:
                layers.append(nn.Linear(features, 5, draw(activations), draw(st.booleans()), **drawn))
                features = 5
    cut = draw(st.integers(0, len(layers)))
    return nn.Sequential(*layers[:cut], inner=nn.Sequential(*layers[cut:]))


@given(network=networks())
def test_any_order_of_layers(network: nn.Sequential) -> None:
    check(network, images())


def test_what_may_be_anything_is_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return Tensor(2 * y.data)

    network = nn.Sequential(first=Doubled(196, 4, **DRAWN), norm=norm(4), last=nn.Sequential(Doubled(4, 3, **DRAWN)))
    network = nn.Sequential(flatten=nn.Flatten(), **dict(network.children()))
    result = check(network, images())
    assert [name for name, _ in result.children()] == ["flatten", "first", "norm", "last.0"]
    assert result["first"] is network["first"]


def test_layers_that_nothing_changes_are_shared() -> None:
    network = nn.Sequential(a=conv(), b=conv(6), norm=norm(6), tanh=nn.Tanh())
    result = folded(network)
    assert result["a"] is network["a"] and result["b"] is not network["b"]
    assert [name for name, _ in result.named_parameters()] == ["a.w", "a.b", "b.w", "b.b"]


def test_weights_of_products_in_bf16_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the folded network casts nothing, and gives the bits of the one that casts its weights in every call,
    as images in float32 do, whose products round both operands."""
    network = nn.Sequential(conv=conv(activation="relu"), flatten=nn.Flatten(), last=nn.Linear(150, 5, **DRAWN))
    network.set_precision("bf16")
    result, native, casts = folded(network), backend.native(backend.device("cpu")), list[tuple[int, ...]]()
    cast = native.cast

    def counted(y: np.ndarray, x: np.ndarray, stream: int) -> None:
        casts.append(x.shape)
        cast(y, x, stream)

    monkeypatch.setattr(native, "cast", counted)
    weights = [network["conv"].w, network["last"].w]
    for x, rounded in ((images().astype(bfloat16), [w.shape for w in weights]), (images(), [])):
        casts.clear()
        with no_grad():
            expected = network(Tensor(x)).numpy()
            assert casts == rounded
            casts.clear()
            got = result(Tensor(x)).numpy()
        assert got.dtype == x.dtype and len(casts) == (2 if x.dtype == np.float32 else 0)
        assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    assert [w.data.dtype for w in weights] == [np.float32] * 2


def test_a_graph_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a Sequential whose layers come one after the other, got a Graph"):
        folded(nn.Graph([]))
