"""``python -m alexnet_cuda.report``: a page that needs nothing else, and what it shows is true."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from alexnet_cuda import backend, checkpoint, command_line, report
from alexnet_cuda.data import ArrayDataset
from alexnet_cuda.inference import Trained
from alexnet_cuda.metrics import read_metrics

pytest_plugins = ["tiny_run"]

CPU = backend.device("cpu")
VOID = {"img", "meta"}
ODD = "<i>&amp; $x$"  # one of the classes


class Page(HTMLParser):
    """A page as its elements: (name, attributes, text inside)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open, [self.elements[i][0] for i in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][2].append(data)

    def texts(self, tag: str, kind: str | None = None) -> list[str]:
        return [
            "".join(inside)
            for name, attributes, inside in self.elements
            if name == tag and (kind is None or attributes.get("class") == kind)
        ]

    def images(self) -> Iterator[tuple[dict[str, str | None], Image.Image]]:
        for name, attributes, _ in self.elements:
            if name == "img":
                start, _, content = str(attributes["src"]).partition(",")
                assert start == "data:image/png;base64"
                picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
                picture.load()
                yield attributes, picture


def call(*arguments: object) -> int:
    return command_line.run(report.main, ["--device", "cpu", *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return Trained.load(tiny_run, CPU)


@pytest.fixture(scope="module")
def source(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the tiny run as it was written."""
    out = tmp_path_factory.mktemp("report") / "page.html"
    assert call(tiny_run, "--out", out) == 0
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


# ---- the page


def test_the_page_is_whole_and_has_all_its_sections(page: Page) -> None:
    assert page.texts("h2") == [
        "Training", "Answers", "Confusions", "Filters of the first layer", "Similar images", "Activations",
        "Configuration",
    ]  # fmt: skip
    assert len(page.texts("h1")) == len(page.texts("title")) == len(page.texts("main")) == 1
    assert page.texts("h1")[0].startswith("alexnet-mini on folder:")
    assert next(attributes for name, attributes, _ in page.elements if name == "html") == {"lang": "en"}


def test_the_page_needs_nothing_else(source: str, page: Page) -> None:
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", source)
    policy = [a["content"] for _, a, _ in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert {name for name, attributes, _ in page.elements if "src" in attributes} == {"img"}
    assert not [attributes for _, attributes, _ in page.elements if "href" in attributes]


def test_every_picture_is_a_png_with_a_text_instead(page: Page) -> None:
    pictures = list(page.images())
    assert all(attributes["alt"] for attributes, _ in pictures)
    assert all(picture.format == "PNG" and min(picture.size) > 1 for _, picture in pictures)
    kinds = [str(attributes["alt"]).partition(" ")[0] for attributes, _ in pictures]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {
        "Loss": 1, "Accuracy": 1, "Test": 8 + 5, "Training": 5 * 6, "Confusion": 1, "The": 2, "Histogram": 15,
    }  # fmt: skip
    assert all(len(np.unique(np.asarray(picture))) > 1 for _, picture in pictures)


def test_names_are_text_whatever_they_hold(source: str, page: Page) -> None:
    assert "<i>" not in source
    assert ODD in {caption.partition(" at ")[0] for caption in page.texts("figcaption")}


def test_the_curves_come_with_their_numbers(page: Page, tiny_run: Path) -> None:
    epochs = [r for r in read_metrics(tiny_run / "metrics.jsonl") if r["kind"] == "epoch"]
    (rows,) = page.texts("details")
    for record in epochs:
        assert f"{record['train_loss']:.4f}{record['train_accuracy']:.2%}{record['test_loss']:.4f}" in rows
    best = max(record["test_accuracy"] for record in epochs)
    assert f"at best{best:.2%}, after epoch" in "".join(page.texts("table"))


def test_the_configuration_is_on_the_page(page: Page, trained: Trained) -> None:
    rows = page.texts("tr")
    for name, value in trained.config.items():
        assert any(row.startswith(name) and (not isinstance(value, str) or value in row) for row in rows)


def test_a_number_that_a_run_did_not_have_is_left_blank() -> None:
    record = {"kind": "epoch", "epoch": 1, "train_loss": 0.5, "train_accuracy": 0.5, "test_loss": None}
    section = Page(report.curves([], [{**record, "test_accuracy": 0.25}]))
    assert section.texts("td") == ["1", "0.5000", "50.00%", "", "25.00%"]


# ---- what it says


@pytest.fixture(scope="module")
def samples(trained: Trained) -> tuple[report.Sample, report.Sample]:
    data = trained.data()
    test = report.examine(trained, data.test, 2000, trained.probabilities, "test images")
    return test, report.examine(trained, data.train, 2000, trained.features, "training images")


def test_answers_show_the_surest_mistakes_first(trained: Trained, samples: tuple[report.Sample, report.Sample]) -> None:
    test, _ = samples
    section = Page(report.answers(trained, test))
    wrong = [
        (-max(p), trained.classes[label])
        for p, label in zip(test.outputs.tolist(), test.labels, strict=True)
        if int(np.argmax(p)) != label
    ]
    assert section.texts("figcaption")[:4] == [name for _, name in sorted(wrong, key=lambda row: row[0])[:4]]
    assert len(section.texts("figure", "card")) == 8
    for card, bars in zip(section.texts("figcaption"), section.texts("ol", "bars"), strict=True):
        shares = [float(share) for share in re.findall(r"([0-9.]+)%", bars)]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True)
        assert card in trained.classes
    true = section.texts("li", "true")
    assert all(any(line.startswith(name) for name in section.texts("figcaption")) for line in true)


def naive_neighbours(query: np.ndarray, features: np.ndarray) -> list[tuple[int, float]]:
    distances = [float(np.linalg.norm(row.astype(np.float64) - query)) for row in features]
    return sorted(enumerate(distances), key=lambda pair: pair[1])[:6]


def test_nearest_is_a_naive_search() -> None:
    rng = np.random.default_rng(0)
    features, query = rng.standard_normal((50, 9), np.float32), rng.standard_normal(9, np.float32)
    places, distances = report.nearest(query, features, 6)
    assert_array_equal(places, [place for place, _ in naive_neighbours(query, features)])
    assert_allclose(distances, [distance for _, distance in naive_neighbours(query, features)], rtol=1e-5)


def test_the_neighbours_on_the_page_are_those_of_a_naive_search(
    trained: Trained, samples: tuple[report.Sample, report.Sample]
) -> None:
    test, train = samples
    section = Page(report.neighbours(trained, test, train))
    captions = section.texts("figcaption")
    same = 0
    for name, *found in (captions[first : first + 7] for first in range(0, 5 * 7, 7)):
        label = trained.classes.index(name)
        place = test.labels.tolist().index(label)
        expected = naive_neighbours(trained.features(test.images([place]))[0], train.outputs)
        assert [caption.rpartition(" at ")[0] for caption in found] == [
            trained.classes[train.labels[i]] for i, _ in expected
        ]
        assert_allclose(
            [float(caption.rpartition(" at ")[2]) for caption in found], [d for _, d in expected], rtol=6e-3
        )
        same += sum(train.labels[i] == label for i, _ in expected)
    assert len(set(captions[::7])) == 5
    assert len(section.texts("span", "wrong")) == 30 - same
    assert f"{same} of 30 are of its class" in section.texts("p")[0]


def test_confusions_are_counted(trained: Trained, samples: tuple[report.Sample, report.Sample]) -> None:
    test, _ = samples
    answers = test.outputs.argmax(axis=1)
    pairs = list(zip(test.labels.tolist(), answers.tolist(), strict=True))
    rows = Page(report.confusions(trained, test)).texts("tr")[1:]
    counts = sorted((pairs.count(pair) for pair in set(pairs) if pair[0] != pair[1]), reverse=True)[:10]
    lines = {
        f"{trained.classes[i]}{trained.classes[j]}{pairs.count((i, j))}{pairs.count((i, j)) / 5:.1%}": (i, j)
        for i, j in set(pairs)
        if i != j
    }
    found = [lines[row] for row in rows]
    assert [pairs.count(pair) for pair in found] == counts
    assert len(set(found)) == len(found)


def test_many_classes_get_no_picture_and_no_mistake_no_table(
    trained: Trained, samples: tuple[report.Sample, report.Sample]
) -> None:
    names = tuple(map(str, range(31)))
    right = replace(samples[0], outputs=np.eye(31, dtype=np.float32)[samples[0].labels])
    section = Page(report.confusions(replace(trained, classes=names), right))
    assert list(section.images()) == []
    assert section.texts("p") == ["No image is taken for another class."]


def test_activations_are_those_of_the_network(trained: Trained, samples: tuple[report.Sample, report.Sample]) -> None:
    rows = Page(report.layers(trained, samples[0])).texts("tr")[1:]
    y = trained.activations(samples[0].images(range(16)), ["conv1"])["conv1"]
    assert rows[0].startswith(f"conv116x16x32{y.mean():.3g}{y.std():.3g}{(y == 0).mean():.1%}")
    names = [layer.name for layer in trained.model.layers if layer.name != "flatten"]
    assert all(row.startswith(name) for name, row in zip(names, rows, strict=True))


def test_filters_lie_side_by_side() -> None:
    w = np.random.default_rng(0).random((20, 5, 5, 3), np.float32)
    picture = report.tiled(w)
    n = report.ENLARGED
    assert picture.shape == (n * (2 * 6 - 1), n * (16 * 6 - 1), 4)
    small = picture[::n, ::n]
    assert_array_equal(small.repeat(n, 0).repeat(n, 1), picture)
    assert_array_equal(small[6:11, 18:23, :3], np.rint(255 * w[19]))
    assert_array_equal(small[5, :, 3], 0)
    assert_array_equal(small[6:, 24:, 3], 0)  # the places after the last filter


# ---- the command


def test_a_page_is_about_as_many_images_as_are_asked_for(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert call(run, "--images", 9) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "9 test and 9 training images" in page.texts("table")[0]
    assert "Training" not in page.texts("h2")


def test_unreadable_images_are_left_out(trained: Trained, tiny_images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_images, tmp_path / "images")
    for name in ("0", "3"):
        (folder / "train" / "red" / f"{name}.png").write_text("no image")
    data = trained.data(f"folder:{folder}")
    sample = report.examine(replace(trained, batch=7), data.train, 2000, trained.features, "training images")
    assert len(sample.labels) == len(sample.indices) == len(sample.outputs) == 54
    assert_array_equal(data.train.labels[sample.indices], sample.labels)
    assert_allclose(trained.features(sample.images(range(54))), sample.outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["none"], "none: no such checkpoint"),
        (["RUN", "--out", "none/page.html"], "--out none/page.html: expected a file in a folder that exists"),
        (["RUN", "--out", "."], "--out .: expected a file in a folder that exists"),
        (["RUN", "--images", "0"], "argument --images: expected a whole number above 0, got '0'"),
        (["RUN", "--data", "synthetic:9"], "differ in classes: 9 and 7"),
        (["RUN", "--outt", "x"], "unknown argument --outt; did you mean --out?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*(tiny_run if argument == "RUN" else argument for argument in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_file_will_do(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_run / checkpoint.NAME, tmp_path / "best.safetensors")
    assert call(tmp_path / "best.safetensors", "--images", 7) == 0
    assert (tmp_path / "report.html").is_file()


def test_only_the_true_one_of_classes_of_one_name_is_marked(tiny_run: Path) -> None:
    trained = Trained.load(tiny_run, CPU)
    trained = replace(trained, classes=("crane",) * len(trained.classes))
    images = ArrayDataset(np.zeros((7, *trained.mean.shape), np.uint8), np.arange(7, dtype=np.int32), trained.classes)
    outputs = np.full((7, 7), 1 / 7, np.float32)
    page = Page(report.answers(trained, report.Sample(images, np.arange(7), images.labels, outputs)))
    assert len(page.texts("li", "true")) == 5 and len(page.texts("li")) == 35


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("matplotlib.axes.Axes.plot", {"Loss": 1, "Accuracy": 1}),
        ("matplotlib.axes.Axes.imshow", {"Confusion": 1}),
        ("matplotlib.axes.Axes.stairs", {"Histogram": 15}),
        ("matplotlib.figure.Figure.savefig", {"Loss": 1, "Accuracy": 1, "Confusion": 1, "Histogram": 15}),
    ],
)
def test_a_chart_that_fails_is_said_and_ends_nothing(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: str,
    said: dict[str, int],
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no\nglyphs")

    monkeypatch.setattr(fails, broken)
    assert call(tiny_run, "--images", 14, "--out", tmp_path / "page.html") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(": could not be drawn: no glyphs")]
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [text for text in page.texts("figcaption") if "could not be drawn" in text] == lines
    kinds = [line.partition(" ")[0] for line in lines]
    assert {kind: kinds.count(kind) for kind in kinds} == said
    assert len(page.texts("h2")) == 7
