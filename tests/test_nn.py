"""Modules: naming, state, training and evaluation, seeds, activations."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from ml_dtypes import bfloat16

from alexnet_cuda import Tensor, backend, kernels, nn


def network(seed: int = 0) -> nn.Sequential:
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        conv1=nn.Conv2d(4, 6, 3, padding=1, groups=2, activation="relu", rng=rng),
        lrn1=nn.LocalResponseNorm(groups=2),
        pool1=nn.MaxPool2d(3, 2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.5),
        fc=nn.Linear(6 * 3 * 3, 5, rng=rng),
    )


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 7, 7, 4)).astype(np.float32)


def test_names_and_shapes_of_parameters():
    names = {name: p.shape for name, p in network().named_parameters()}
    assert names == {"conv1.w": (6, 3, 3, 2), "conv1.b": (6,), "fc.w": (5, 54), "fc.b": (5,)}
    assert [name for name, _ in network().children()] == ["conv1", "lrn1", "pool1", "flatten", "drop", "fc"]
    assert isinstance(network()["pool1"], nn.MaxPool2d)


def test_forward_is_the_kernels_one_after_the_other():
    net, x = network().eval(), image()
    y = kernels.conv2d(x, net.conv1.w.data, net.conv1.b.data, padding=1, groups=2, relu=True)
    y, _ = kernels.max_pool2d(kernels.lrn(y, groups=2), 3, 2)
    y = kernels.linear(y.reshape(2, -1) * np.float32(0.5), net.fc.w.data, net.fc.b.data)
    np.testing.assert_allclose(net(Tensor(x)).numpy(), y, rtol=1e-5, atol=1e-6)


def test_dropout_drops_in_training_only_and_follows_its_seed():
    net, x = network(), Tensor(np.ones((4, 50), np.float32))
    drop = net.drop
    net.seed(7)
    first, second = drop(x).numpy(), drop(x).numpy()
    assert set(np.unique(first)) == {0.0, 1.0} and not np.array_equal(first, second)
    net.seed(7)
    np.testing.assert_array_equal(drop(x).numpy(), first)
    net.seed(7, step=1)
    np.testing.assert_array_equal(drop(x).numpy(), second)
    net.eval()
    np.testing.assert_array_equal(drop(x).numpy(), 0.5)
    assert drop.step == 2


def test_two_dropout_layers_have_different_masks():
    net = nn.Sequential(nn.Dropout(), nn.Dropout())
    net.seed(1)
    x = Tensor(np.ones((10, 100), np.float32))
    a, b = (m(x).numpy() for _, m in net.children())
    assert not np.array_equal(a, b)


def test_inverted_dropout_changes_nothing_in_evaluation():
    x = Tensor(np.ones((4, 50), np.float32))
    drop = nn.Dropout(0.2, form="inverted")
    assert set(np.unique(drop(x).numpy())) == {0.0, np.float32(1.25)}
    np.testing.assert_array_equal(drop.eval()(x).numpy(), 1)


def test_state_round_trip_and_refusals():
    a, b = network(0), network(1)
    state = a.state()
    b.load_state(state)
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=name)
    before = b.state()
    bad = dict(state, extra=np.zeros(1, np.float32))
    bad["fc.b"] = np.zeros(6, np.float32)
    del bad["conv1.w"]
    with pytest.raises(
        ValueError, match=r"missing conv1.w; surplus extra; fc.b: expected float32 \(5,\), got float32 \(6,\)"
    ):
        b.load_state(bad)
    np.testing.assert_array_equal(b.conv1.b.numpy(), before["conv1.b"])


def test_a_state_that_fits_in_part():
    a, b = network(0), network(1)
    state, before = a.state_dict(), b.state_dict()
    assert state.keys() == a.state().keys()
    part = dict(state, extra=np.zeros(1, np.float32))
    part["fc.b"] = np.zeros(6, np.float32)
    del part["conv1.w"]
    with pytest.raises(ValueError, match=r"^load_state_dict: missing conv1.w; surplus extra; fc.b: expected float32"):
        b.load_state_dict(part)
    differences = b.load_state_dict(part, strict=False)
    assert differences == nn.StateDifferences(missing=["conv1.w"], surplus=["extra"], reshaped=["fc.b"])
    assert differences.reshaped == ["fc.b"]
    after = b.state_dict()
    for name, expected in {**state, "conv1.w": before["conv1.w"], "fc.b": before["fc.b"]}.items():
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
    part["fc.w"] = part["fc.w"].astype(np.float64)
    with pytest.raises(ValueError, match=r"^load_state_dict: fc.w: expected float32 \(5, 54\), got float64 \(5, 54\)$"):
        b.load_state_dict(part, strict=False)
    np.testing.assert_array_equal(b.conv1.b.numpy(), state["conv1.b"])
    assert b.load_state_dict(state) == ([], [], [])
    np.testing.assert_array_equal(b.fc.w.numpy(), state["fc.w"])


def test_the_loss_is_softmax_cross_entropy_unless_the_network_has_another():
    y, labels = Tensor(np.zeros((2, 4), np.float32)), Tensor(np.array([1, 3], np.int32))
    nodes = [nn.Node("same", nn.Flatten(), ("",), backend.Device("cpu"))]
    assert network().loss(y, labels).item() == nn.Graph(nodes).loss(y, labels).item() == pytest.approx(np.log(4))
    assert nn.Graph(nodes, "squares").loss(y, labels).item() == 1


def test_state_is_a_copy():
    net = network()
    state = net.state()
    state["fc.b"][:] = 9
    np.testing.assert_array_equal(net.fc.b.numpy(), 0)


def test_manual_seed_repeats_weights():
    nn.manual_seed(3)
    a = nn.Linear(3, 4).w.numpy()
    b = nn.Linear(3, 4).w.numpy()
    nn.manual_seed(3)
    np.testing.assert_array_equal(nn.Linear(3, 4).w.numpy(), a)
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    "made",
    [
        lambda rng: nn.Linear(3, 4, rng=rng),
        lambda rng: nn.Conv2d(3, 4, 3, rng=rng),
        lambda rng: nn.Local2d((5, 5), 3, 4, 3, rng=rng),
        lambda rng: nn.WeightedSum([1, 2], bias=(4,), bias_init=lambda shape, rng: rng.normal(size=shape), rng=rng),
    ],
)
def test_undrawn_layers_draw_nothing(made):
    rng = np.random.default_rng(0)
    with nn.undrawn():
        layer = made(rng)
    assert rng.random() == np.random.default_rng(0).random()
    assert all(not values.any() for values in layer.state().values())
    drawn = made(np.random.default_rng(0))
    assert any(values.any() for values in drawn.state().values())
    assert {name: v.shape for name, v in layer.state().items()} == {name: v.shape for name, v in drawn.state().items()}


def test_seeded_holds_in_its_thread_alone():
    def drawn():
        return nn.Linear(3, 2).state()["w"]

    with nn.seeded(3):
        expected = drawn(), drawn()
        nn.manual_seed(4)
        other = drawn()
    with ThreadPoolExecutor(1) as pool, nn.seeded(3):
        block = nn.seeded(4)
        first = drawn()
        pool.submit(block.__enter__).result()
        np.testing.assert_array_equal(pool.submit(drawn).result(), other)
        np.testing.assert_array_equal([first, drawn()], expected)
        pool.submit(block.__exit__, None, None, None).result()


@pytest.mark.parametrize("layer", [nn.Concat(), nn.Upsample2d(3), nn.Subsample(1, 2)], ids=lambda m: type(m).__name__)
def test_what_moves_values_moves_bfloat16(layer):
    layer.set_precision("bf16")
    xs = [reference.random(2, 4, 5, 3, seed=i).astype(bfloat16) for i in range(1 + isinstance(layer, nn.Concat))]
    rounded, exact = ([Tensor(x.astype(dtype), requires_grad=True) for x in xs] for dtype in (bfloat16, np.float32))
    y, expected = layer(*rounded), layer(*exact)
    assert y.dtype == bfloat16
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
    y.backward(np.ones(y.shape, bfloat16))
    expected.backward(np.ones(y.shape, np.float32))
    for x, other in zip(rounded, exact, strict=True):
        np.testing.assert_array_equal(x.grad, other.grad)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("make", [lambda a: nn.Conv2d(4, 3, 1, activation=a), lambda a: nn.Linear(4, 3, activation=a)])
def test_activation_of_a_layer_is_the_activation_module(name, make):
    layer = make(name)
    x = Tensor(image() if isinstance(layer, nn.Conv2d) else image().reshape(-1, 4))
    y = layer(x).numpy()
    layer.activation = None
    module = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[name]()
    np.testing.assert_allclose(y, module(layer(x)).numpy(), rtol=1e-6, atol=1e-7)


def test_gradients_reach_every_parameter():
    net = network()
    y = net(Tensor(image()))
    y.backward(np.ones(y.shape, np.float32))
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.shape == p.shape and np.isfinite(p.grad).all(), name


def test_a_graph_calls_modules_with_the_outputs_that_they_name():
    cpu = backend.Device("cpu")
    nodes = [
        nn.Node("doubled", nn.Pointwise("linear", 2.0, 0.0), ("",), cpu),
        nn.Node("squared", nn.Pointwise("square"), ("",), cpu),
        nn.Node("both", nn.WeightedSum((1.0, -1.0)), ("doubled", "squared"), backend.Device("cpu", 1)),
    ]
    graph, x = nn.Graph(nodes), Tensor(image())
    np.testing.assert_allclose(graph(x).numpy(), 2 * image() - image() ** 2, rtol=1e-6, atol=1e-6)
    assert graph(x).device == cpu
    assert [(name, y.device.index) for name, _, y in graph.steps(x)] == [("doubled", 0), ("squared", 0), ("both", 1)]
    assert graph["both"] is nodes[2].module
    with pytest.raises(ValueError, match="squared: 'later' does not come before it"):
        nn.Graph([nodes[1]._replace(inputs=("later",))])
    for name in ("doubled", "cost", "forward"):
        with pytest.raises(ValueError, match=f"'{name}' is taken"):
            nn.Graph([nodes[0], nodes[1]._replace(name=name)])


def test_refusals():
    with pytest.raises(ValueError, match="divisor"):
        nn.Conv2d(4, 6, 3, groups=4)
    with pytest.raises(TypeError, match="expected a Module, got int"):
        nn.Sequential(3)
    with pytest.raises(ValueError, match="'forward' is taken"):
        nn.Sequential(forward=nn.ReLU())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.5,), ValueError, r"Dropout: p: expected a number in \[0, 1\), got 1.5"),
        ((1,), ValueError, r"Dropout: p: expected a number in \[0, 1\), got 1"),
        ((-0.1,), ValueError, r"Dropout: p: expected a number in \[0, 1\), got -0.1"),
        ((float("nan"),), ValueError, r"Dropout: p: expected a number in \[0, 1\), got nan"),
        (("half",), TypeError, "Dropout: p: expected a number, got 'half'"),
        ((0.5, "inverse"), ValueError, "Dropout: form: expected paper or inverted, got 'inverse'"),
    ],
)
def test_dropout_is_refused_where_it_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.Dropout(*arguments)
