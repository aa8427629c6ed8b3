"""``python -m alexnet_cuda.report``: a page that needs nothing else, and what it shows is true."""

from __future__ import annotations

import base64
import csv
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

from alexnet_cuda import backend, checkpoint, command_line, report, saliency
from alexnet_cuda.data import ArrayDataset
from alexnet_cuda.inference import Trained
from alexnet_cuda.metrics import read_metrics
from alexnet_cuda.report import images, training
from alexnet_cuda.report.images import Examined, Sample
from alexnet_cuda.report.training import Past

pytest_plugins = ["tiny_run"]

CPU = backend.device("cpu")
VOID = {"img", "meta", "wbr"}
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


def rows_of(page: Page) -> list[list[str]]:
    """The cells of all rows of all tables."""
    rows = list[list[str]]()
    for name, _, inside in page.elements:
        if name == "tr":
            rows.append([])
        elif name in ("th", "td"):
            rows[-1].append("".join(inside))
    return rows


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

SECTIONS = [
    "Training", "Answers", "What the answers rest on", "Classes", "Confusions", "Filters of the first layer",
    "Similar images", "Activations", "Configuration",
]  # fmt: skip


def test_the_page_is_whole_and_has_all_its_sections(page: Page) -> None:
    assert page.texts("h2") == SECTIONS
    assert len(page.texts("h1")) == len(page.texts("title")) == len(page.texts("main")) == 1
    assert page.texts("h1")[0].startswith("alexnet-mini on folder:")
    assert next(attributes for name, attributes, _ in page.elements if name == "html") == {"lang": "en"}


def test_the_contents_lead_to_the_sections(page: Page) -> None:
    links = [(attributes["href"], "".join(inside)) for name, attributes, inside in page.elements if name == "a"]
    places = [f"#{attributes['id']}" for name, attributes, _ in page.elements if name == "section"]
    assert links == list(zip(places, SECTIONS, strict=True))
    assert len(set(places)) == len(places)


def test_the_page_needs_nothing_else(source: str, page: Page) -> None:
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", source)
    policy = [a["content"] for _, a, _ in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert {name for name, attributes, _ in page.elements if "src" in attributes} == {"img"}
    assert all(str(a["href"]).startswith("#") for _, a, _ in page.elements if "href" in a)


def test_every_picture_is_a_png_with_a_text_instead(page: Page) -> None:
    pictures = list(page.images())
    assert all(attributes["alt"] for attributes, _ in pictures)
    assert all(picture.format == "PNG" and min(picture.size) > 1 for _, picture in pictures)
    kinds = [str(attributes["alt"]).partition(" ")[0] for attributes, _ in pictures]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {
        "Loss": 1, "Accuracy": 1, "Learning": 1, "Test": 8 + 8 + 5, "Occlusion": 8, "Class": 8, "Training": 5 * 6,
        "The": 2, "Histogram": 15,
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
    section = Page(training.curves(Past([{**record, "test_accuracy": 0.25}], {})).content)
    assert section.texts("th", None)[5:] + section.texts("td") == ["1", "0.5000", "50.00%", "", "25.00%"]


def test_the_page_tells_when_how_and_for_how_long_a_run_was_trained(trained: Trained) -> None:
    start = {"kind": "start", "step": 0, "time": "2026-02-03 04:05", "version": "7.8", "machine": "2 threads"}
    records = [
        {**start, "command": "train -x"},
        {**start, "step": 9, "time": "2026-02-04 05:06", "command": "train -y"},
    ]
    told = training.summary(trained, Past(records, {"progress": {"seconds": 3671.4, "epoch": 12}}))
    assert told[2:] == [
        ("checkpoint", f"{trained.path}, after epoch 12"),
        ("begun", "2026-02-03 04:05, by alexnet_cuda 7.8 on 2 threads"),
        ("by", "train -x"),
        ("resumed", "2026-02-04 05:06, by alexnet_cuda 7.8 on 2 threads"),
        ("by", "train -y"),
        ("time", "1:01:11, tests not counted"),
    ]


# ---- what it says


@pytest.fixture(scope="module")
def examined(trained: Trained) -> Examined:
    return images.examine(trained, None, 2000)


def test_answers_show_the_surest_mistakes_first(trained: Trained, examined: Examined) -> None:
    test = examined.test
    section = Page(images.answers(trained, examined).content)
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


def test_reasons_are_of_the_images_answered_and_of_their_answers(trained: Trained, examined: Examined) -> None:
    captions = Page(images.answers(trained, examined).content).texts("figcaption")
    section = images.reasons(trained, examined)
    assert section is not None
    told = Page(section.content)
    cells = told.texts("figcaption")
    pictures = [np.asarray(picture) for _, picture in told.images()]
    places, surest = images.shown(examined)
    assert surest == 4 and [trained.classes[examined.test.labels[place]] for place in places] == captions
    seen = examined.test.images(places)[:, 2:34, 2:34]
    for i, place in enumerate(places):
        answer = examined.test.outputs[place].argmax()
        assert cells[3 * i] == f"{trained.classes[answer]}, {examined.test.outputs[place, answer]:.1%}"
        under = saliency.occlusion(trained, examined.test.images([place]), np.array([answer], np.int32))
        assert cells[3 * i + 1 : 3 * i + 3] == [f"occluded, {under.min():.1%}", "Grad-CAM"]
        assert_array_equal(pictures[3 * i], seen[i])
        heat = examined.test.outputs[place, answer] - under[0]
        assert_array_equal(pictures[3 * i + 1], images.heated(seen[i], heat))


def test_what_is_hot_is_bright() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 0.5
    brightness = images.heated(grey, heat).sum(axis=2)
    assert brightness[0, 7] == brightness.max() > brightness[7, 0] == brightness.min()
    cold = images.heated(grey, -heat)
    assert_array_equal(cold, images.heated(grey, 0 * heat))
    assert len(np.unique(cold.reshape(-1, 3), axis=0)) == 1


def naive_neighbours(query: np.ndarray, features: np.ndarray) -> list[tuple[int, float]]:
    distances = [float(np.linalg.norm(row.astype(np.float64) - query)) for row in features]
    return sorted(enumerate(distances), key=lambda pair: pair[1])[:6]


def test_nearest_is_a_naive_search() -> None:
    rng = np.random.default_rng(0)
    features, query = rng.standard_normal((50, 9), np.float32), rng.standard_normal(9, np.float32)
    places, distances = images.nearest(query, features, 6)
    assert_array_equal(places, [place for place, _ in naive_neighbours(query, features)])
    assert_allclose(distances, [distance for _, distance in naive_neighbours(query, features)], rtol=1e-5)


def test_the_neighbours_on_the_page_are_those_of_a_naive_search(trained: Trained, examined: Examined) -> None:
    test, train = examined.test, examined.train
    section = Page(images.neighbours(trained, examined).content)
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


def naive_scores(examined: Examined, label: int) -> list[str]:
    """Images, answers, precision, recall, F1 of a class, as the page writes them."""
    pairs = list(zip(examined.test.labels.tolist(), examined.test.outputs.argmax(axis=1).tolist(), strict=True))
    images = sum(true == label for true, _ in pairs)
    answers = sum(answer == label for _, answer in pairs)
    right = sum(pair == (label, label) for pair in pairs)
    precision, recall = right / answers if answers else None, right / images if images else None
    f1 = None if not images + answers else 0 if not right else 2 / (1 / precision + 1 / recall)
    return [str(images), str(answers), *("" if x is None else f"{x:.1%}" for x in (precision, recall, f1))]


def test_classes_have_their_precision_and_recall(trained: Trained, examined: Examined) -> None:
    rows = rows_of(Page(images.classes(trained, examined).content))
    expected = [[name, *naive_scores(examined, label)] for label, name in enumerate(trained.classes)]
    assert rows[0] == ["class", "images", "answers", "precision", "recall", "F1"]
    assert rows[1:-1] == expected
    for i, cell in enumerate(rows[-1][3:], 3):
        column = [float(row[i].rstrip("%")) for row in expected if row[i]]
        assert float(cell.rstrip("%")) == pytest.approx(sum(column) / len(column), abs=0.11)  # of rounded ones


def test_confusions_are_counted(trained: Trained, examined: Examined) -> None:
    answers = examined.test.outputs.argmax(axis=1)
    pairs = list(zip(examined.test.labels.tolist(), answers.tolist(), strict=True))
    head, *matrix = rows_of(Page(images.confusions(trained, examined).content))[: 1 + len(trained.classes)]
    assert head == ["", *trained.classes] and [row[0] for row in matrix] == list(trained.classes)
    for i, row in enumerate(matrix):
        assert row[1:] == [str(pairs.count((i, j)) or "") for j in range(len(trained.classes))]
    rows = rows_of(Page(images.confusions(trained, examined).content))[2 + len(trained.classes) :]
    counts = sorted((pairs.count(pair) for pair in set(pairs) if pair[0] != pair[1]), reverse=True)[:10]
    lines = {
        (trained.classes[i], trained.classes[j], f"{pairs.count((i, j))}", f"{pairs.count((i, j)) / 5:.1%}"): (i, j)
        for i, j in set(pairs)
        if i != j
    }
    found = [lines[tuple(row)] for row in rows]
    assert [pairs.count(pair) for pair in found] == counts
    assert len(set(found)) == len(found)


def many(trained: Trained, examined: Examined, wrong: dict[int, int]) -> tuple[Trained, Examined]:
    """As if there were 40 classes, of one image each, taken for themselves but for those in ``wrong``."""
    labels = np.arange(40, dtype=np.int32) % 35
    answers = [wrong.get(label, label) for label in labels.tolist()]
    test = replace(examined.test, labels=labels, outputs=np.eye(40, dtype=np.float32)[answers])
    return replace(trained, classes=tuple(f"class {i}" for i in range(40))), replace(examined, test=test)


def test_of_many_classes_those_with_mistakes_are_shown(trained: Trained, examined: Examined) -> None:
    many_classes = many(trained, examined, {33: 12, 20: 38})
    head, *rows = rows_of(Page(images.confusions(*many_classes).content))
    assert len(head) == 31
    assert {"class 33", "class 12", "class 20", "class 38"} <= set(head)
    assert [row[0] for row in rows[:30]] == head[1:]
    assert next(row for row in rows if row[0] == "class 33")[1 + head[1:].index("class 12")] == "1"
    folded = Page(images.classes(*many_classes).content)
    shown = rows_of(folded)
    assert [row[0] for row in shown[1:4]] == ["class 20", "class 33", "class 38"]
    assert len(shown) == 1 + 10 + 1 + 1 + 40 + 1
    assert shown[-2] == ["class 39", "0", "0", "", "", ""]
    assert folded.texts("summary") == ["All 40 classes"]


def test_without_mistakes_there_is_no_table_of_them(trained: Trained, examined: Examined) -> None:
    section = Page(images.confusions(*many(trained, examined, {})).content)
    assert section.texts("p")[1:] == ["No image is taken for another class."]


def test_activations_are_those_of_the_network(trained: Trained, examined: Examined) -> None:
    rows = Page(images.layers(trained, examined).content).texts("tr")[1:]
    y = trained.activations(examined.test.images(range(16)), ["conv1"])["conv1"]
    assert rows[0].startswith(f"conv116x16x32{y.mean():.3g}{y.std():.3g}{(y == 0).mean():.1%}")
    names = [layer.name for layer in trained.model.layers if layer.name != "flatten"]
    assert all(row.startswith(name) for name, row in zip(names, rows, strict=True))


def test_filters_lie_side_by_side() -> None:
    w = np.random.default_rng(0).random((20, 5, 5, 3), np.float32)
    picture = training.tiled(w)
    n = training.ENLARGED
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
    assert capsys.readouterr().out == f"{run / 'report.html'}: of {run / 'best.safetensors'}\n"
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "9 test and 9 training images" in page.texts("table")[0]
    assert "Training" not in page.texts("h2")


def test_unreadable_images_are_left_out(trained: Trained, tiny_images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_images, tmp_path / "images")
    for name in ("0", "3"):
        (folder / "train" / "red" / f"{name}.png").write_text("no image")
    data = trained.data(f"folder:{folder}")
    sample = images.sample(replace(trained, batch=7), data.train, 2000, trained.features, "training images")
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
        (["RUN", "--csv", "file"], "--csv file: expected a folder, or a new one in a folder that exists"),
        (["RUN", "--csv", "none/tables"], "--csv none/tables: expected a folder, or a new one in a folder that exists"),
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
    Path("file").touch()
    assert call(*(tiny_run if argument == "RUN" else argument for argument in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_file_will_do(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_run / checkpoint.NAME, tmp_path / "best.safetensors")
    assert call(tmp_path / "best.safetensors", "--images", 7) == 0
    assert (tmp_path / "report.html").is_file()


def test_only_the_true_one_of_classes_of_one_name_is_marked(tiny_run: Path, examined: Examined) -> None:
    trained = Trained.load(tiny_run, CPU)
    trained = replace(trained, classes=("crane",) * len(trained.classes))
    test = ArrayDataset(np.zeros((7, *trained.mean.shape), np.uint8), np.arange(7, dtype=np.int32), trained.classes)
    sample = Sample(test, np.arange(7), test.labels, np.full((7, 7), 1 / 7, np.float32))
    page = Page(images.answers(trained, replace(examined, test=sample)).content)
    assert len(page.texts("li", "true")) == 5 and len(page.texts("li")) == 35


# ---- tables for other programs


def test_csv_holds_the_matrix_and_the_scores(trained: Trained, tmp_path: Path, examined: Examined) -> None:
    folder = tmp_path / "tables"
    classes = trained.classes
    assert call(trained.path, "--out", tmp_path / "page.html", "--csv", folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["classes.csv", "confusions.csv"]
    with (folder / "confusions.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["true class", *classes] and [row[0] for row in rows] == list(classes)
    pairs = list(zip(examined.test.labels.tolist(), examined.answers.tolist(), strict=True))
    assert [[int(n) for n in row[1:]] for row in rows] == [
        [pairs.count((i, j)) for j in range(len(classes))] for i in range(len(classes))
    ]
    with (folder / "classes.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for label, row in enumerate(found):
        expected = naive_scores(examined, label)
        assert [row["class"], row["images"], row["answered"]] == [classes[label], *expected[:2]]
        shares = [row[name] for name in ("precision", "recall", "f1")]
        assert [f"{float(share):.1%}" if share else "" for share in shares] == expected[2:]


# ---- images that are gone


@pytest.fixture
def gone(tiny_run: Path, tmp_path: Path) -> Path:
    """The tiny run, as if its images had been moved."""
    run = shutil.copytree(tiny_run, tmp_path / "gone")
    saved = checkpoint.load(run)
    config = {**saved.description["config"], "data": "folder:/nowhere"}
    for name in (checkpoint.NAME, checkpoint.BEST):
        checkpoint.save(run / name, replace(saved, description={**saved.description, "config": config}))
    return run


def test_without_its_images_the_page_is_about_the_training(gone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(gone) == 1
    out, err = capsys.readouterr()
    best = gone / checkpoint.BEST
    reason = f"/nowhere: no such folder; folder:/nowhere comes from {best}, --data names another place"
    assert (out, err) == ("", f"error: {gone / 'report.html'} is about the training alone: {reason}\n")
    page = Page((gone / "report.html").read_text(encoding="utf-8"))
    assert page.texts("h2") == ["Training", "Filters of the first layer", "Configuration"]
    assert f"none, so this page is about the training alone: {reason}" in page.texts("table")[0]


def test_images_that_none_can_read_are_gone_as_well(
    tiny_run: Path, tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_images, tmp_path / "images")
    for path in (folder / "val").rglob("*.png"):
        path.write_text("no image")
    assert call(tiny_run, "--out", tmp_path / "page.html", "--data", f"folder:{folder}") == 2
    assert capsys.readouterr().err == "error: none of the test images can be read\n"


@pytest.mark.parametrize("arguments", [["--csv", "tables"], ["--data", "folder:/nowhere"]], ids=" ".join)
def test_who_asks_for_images_gets_no_page_without(
    gone: Path,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(gone, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "/nowhere: no such folder" in err
    assert not (gone / "report.html").exists() and not Path("tables").exists()


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("matplotlib.axes.Axes.plot", {"Loss": 1, "Accuracy": 1, "Learning": 1}),
        ("matplotlib.axes.Axes.stairs", {"Histogram": 15}),
        ("matplotlib.figure.Figure.savefig", {"Loss": 1, "Accuracy": 1, "Learning": 1, "Histogram": 15}),
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
    assert "Answers" in page.texts("h2")
