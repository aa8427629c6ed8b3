"""The networks against the published shapes and counts, and a step of training of each."""

import re

import numpy as np
import pytest

from alexnet_cuda import Tensor, models, nn, ops, optim

PARAMETERS = {
    "alexnet": 60_965_224,
    "alexnet-single": 62_378_344,
    "alexnet-half": 59_798_312,
    "alexnet-owt": 61_100_840,
    "alexnet-slim": 50_303_912,
    "caffe-alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "alexnet-2012": 60_965_224,
    "keras-2x2": 28_075_752,
    "keras-9216": 64_752_360,
    "cifar-80sec": 145_578,
    "cifar-18pct": 89_578,
    "cifar-19pct": 89_578,
    "cifar-13pct": 1_116_490,
    "cifar-11pct": 2_112_970,
    "cifar-4layer": 89_578,
}
FROZEN = {"keras-2x2": 19_136, "keras-9216": 2_752}
MACS = {
    "alexnet": 724_406_816,
    "alexnet-single": 1_135_256_096,
    "alexnet-owt": 714_188_480,
    "alexnet-slim": 736_555_776,
    "caffe-alexnet": 724_406_816,
    "caffenet": 724_406_816,
    "alexnet-2012": 724_406_816,
    "keras-2x2": 1_039_559_808,
    "keras-9216": 578_522_240,
}
GROUPED = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]
SINGLE_RUNNING = [34_944, 649_600, 1_534_720, 2_862_208, 3_747_200, 41_500_032, 58_281_344, 62_378_344]
PAPER_SHAPES = {
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool5": (6, 6, 256),
    "flatten": (9216,),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (1000,),
}


def weighted(name: str) -> list:
    return [row for row in models.get(name).rows() if row.filter]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert models.get(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", models.names())
def test_what_is_not_trained(name):
    assert sum(row.frozen for row in models.get(name).rows()) == FROZEN.get(name, 0)


@pytest.mark.parametrize("name", ["keras-2x2", "cifar-13pct", "alexnet-mini"])
def test_counts_are_those_of_the_built_network(name):
    network, rows = models.create(name, device="cpu"), models.get(name).rows()
    assert sum(p.data.size for p in network.parameters()) == sum(row.parameters - row.frozen for row in rows)
    assert sum(b.data.size for _, b in network.named_buffers()) == sum(row.frozen for row in rows)


def test_counts_of_the_first_keras_listing():
    by_layer = {
        row.layer.name: (row.output, row.parameters) for row in models.get("keras-2x2").rows() if row.parameters
    }
    assert by_layer == {
        "conv1": ((54, 54, 96), 34_944), "norm1": ((27, 27, 96), 384), "conv2": ((17, 17, 256), 2_973_952),
        "norm2": ((8, 8, 256), 1_024), "conv3": ((6, 6, 384), 885_120), "norm3": ((6, 6, 384), 1_536),
        "conv4": ((4, 4, 384), 1_327_488), "norm4": ((4, 4, 384), 1_536), "conv5": ((2, 2, 256), 884_992),
        "norm5": ((1, 1, 256), 1_024), "fc6": ((4096,), 1_052_672), "norm6": ((4096,), 16_384),
        "fc7": ((4096,), 16_781_312), "norm7": ((4096,), 16_384), "fc8": ((1000,), 4_097_000),
    }  # fmt: skip


@pytest.mark.parametrize("name", MACS)
def test_macs(name):
    assert sum(row.macs for row in models.get(name).rows()) == MACS[name]


@pytest.mark.parametrize("name", ["alexnet", "caffe-alexnet", "caffenet"])
def test_parameters_by_layer_of_the_grouped_network(name):
    assert [row.parameters for row in weighted(name)] == GROUPED


def test_running_totals_of_the_single_tower():
    assert np.cumsum([row.parameters for row in weighted("alexnet-single")]).tolist() == SINGLE_RUNNING


def test_parameters_by_layer_of_one_weird_trick():
    assert [row.parameters for row in weighted("alexnet-owt")][:5] == [23_296, 307_392, 663_936, 884_992, 590_080]


@pytest.mark.parametrize("name", ["alexnet", "alexnet-single", "caffe-alexnet", "caffenet"])
def test_shapes_of_the_papers_network(name):
    shapes = {row.layer.name: row.output for row in models.get(name).rows()}
    assert {layer: shapes[layer] for layer in PAPER_SHAPES} == PAPER_SHAPES


def test_neurons_of_the_paper():
    assert sum(row.neurons for row in models.get("alexnet").rows()) == 659_272


def test_slim_shapes():
    shapes = {row.layer.name: row.output for row in models.get("alexnet-slim").rows()}
    spatial = [shapes[n][0] for n in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")]
    assert spatial == [54, 26, 26, 12, 12, 5] and shapes["flatten"] == (6400,)


def test_caffenet_pools_before_it_normalises():
    order = [row.layer.name for row in models.get("caffenet").rows()]
    assert order.index("pool1") < order.index("lrn1") < order.index("conv2")
    order = [row.layer.name for row in models.get("caffe-alexnet").rows()]
    assert order.index("lrn1") < order.index("pool1") < order.index("conv2")


def test_initial_values_of_the_paper():
    network = models.create("alexnet-half", device="cpu", classes=10)
    biases = {name: p.numpy() for name, p in network.named_parameters() if name.endswith(".b")}
    ones = {name for name, b in biases.items() if (b == 1).all()}
    assert ones == {"conv2.b", "conv4.b", "conv5.b", "fc6.b", "fc7.b"}
    assert all((biases[name] == 0).all() for name in biases.keys() - ones)
    for name, p in network.named_parameters():
        if name.endswith(".w"):
            assert p.numpy().std() == pytest.approx(0.01, rel=0.03), name


def test_create_is_a_function_of_the_seed():
    a, b, c = (models.create("alexnet-mini", device="cpu", seed=s).state() for s in (1, 1, 2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["conv1.w"], c["conv1.w"])
    assert not np.array_equal(a["conv4.w"].ravel()[:100], a["conv5.w"].ravel()[:100])


def test_classes_change_the_last_layer_alone():
    network = models.create("alexnet-mini", classes=3, device="cpu")
    assert network.fc8.w.shape == (3, 256) and network.fc8.b.shape == (3,)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        models.create("alexnet-mini", classes=0, device="cpu")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'alexnet-sngle'; did you mean alexnet-single"):
        models.create("alexnet-sngle")


def test_the_sources_network_differs_from_the_text_where_the_reference_says():
    order = [row.layer.name for row in models.get("alexnet-2012").rows()]
    assert order[:9] == ["conv1", "lrn1", "pool1", "relu1", "conv2", "lrn2", "norm2", "pool2", "conv3"]
    assert order.index("conv5") < order.index("pool5") < order.index("relu5")
    layers = {row.layer.name: row.layer for row in models.get("alexnet-2012").rows()}
    assert layers["conv1"].activation is None and layers["conv2"].activation == "relu"
    assert layers["lrn1"].alpha == layers["lrn2"].alpha == 2e-5 and layers["lrn1"].groups == 2
    assert (layers["norm2"].size, layers["norm2"].alpha) == (5, 4e-5)
    network = models.create("alexnet-2012", classes=10, device="cpu")
    assert [round(float(network[f"conv{i}"].w.numpy().std()), 3) for i in range(1, 6)] == [0.01, 0.01, 0.03, 0.03, 0.03]


def test_parts_can_be_exchanged():
    model = models.get("alexnet-mini")
    kinds = {type(row.layer).__name__ for row in model.changed({"lrn": False, "dropout": False}).rows()}
    assert kinds == {"Conv2d", "MaxPool2d", "Flatten", "Linear"}
    pools = [row for row in model.changed({"overlap": False}).rows() if "pool" in row.layer.name]
    assert [(row.layer.size, row.layer.stride, row.output[0]) for row in pools] == [(2, 2, 8), (2, 2, 4), (2, 2, 2)]
    single = model.changed({"towers": 1}).rows()
    assert all(getattr(row.layer, "groups", 1) == 1 for row in single)
    assert sum(row.parameters for row in single) > model.parameters
    activations = {getattr(row.layer, "activation", None) for row in model.changed({"activation": "tanh"}).rows()}
    assert activations == {"tanh", None}
    assert model.changed({"lrn": True, "overlap": True, "towers": 2}) == model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lnr": False}, "unknown option model.lnr: expected lrn, .*; did you mean lrn?"),
        ({"lrn": 0}, "model.lrn: expected True or False, got 0"),
        ({"towers": True}, "model.towers: expected 1 or 2, got True"),
        ({"activation": "swish"}, "model.activation: expected 'relu' or 'tanh' or 'sigmoid', got 'swish'"),
    ],
)
def test_unknown_parts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.get("alexnet-mini").changed(options)


def test_mini_has_alexnets_layer_sequence():
    def sequence(name: str) -> list[tuple[str, str]]:
        return [(row.layer.name, type(row.layer).__name__) for row in models.get(name).rows()]

    assert sequence("alexnet-mini") == sequence("alexnet")


def train_step(name: str, batch: int) -> None:
    """Forward, backward and update: all gradients finite, all values move, the loss of this batch falls."""
    model = models.get(name).with_classes(10)
    network: nn.Sequential = model.build(device="cpu", seed=0)
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((batch, *model.input)).astype(np.float32))
    labels = Tensor(rng.integers(0, 10, batch).astype(np.int32))
    before, sgd, losses = network.state(), optim.SGD(network.parameters(), lr=1e-3, decay=0.0), []
    for _ in range(2):
        network.seed(0)
        sgd.zero_grad()
        loss = ops.softmax_cross_entropy(network(x), labels)
        losses.append(loss.item())
        loss.backward()
        for name_, p in network.named_parameters():
            assert p.grad.shape == p.shape and np.isfinite(p.grad).all() and p.grad.any(), name_
        sgd.step()
    assert losses[1] < losses[0]
    assert all(not np.array_equal(before[name_], after) for name_, after in network.state().items())


def test_mini_trains_a_step():
    train_step("alexnet-mini", batch=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in models.names() if n != "alexnet-mini"])
def test_every_model_trains_a_step(name):
    train_step(name, batch=2)


@pytest.mark.parametrize("name", models.names())
def test_a_models_source_tells_no_result_of_another_training(name: str) -> None:
    assert not re.search(r"%|\berror|accura", models.get(name).source)
