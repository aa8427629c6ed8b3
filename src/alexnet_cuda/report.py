"""``python -m alexnet_cuda.report``: a trained network on one HTML page: how its training went, what its first layer
looks for, what it answers, what it confuses, what it finds similar (paper, figures 3 and 4)."""

from __future__ import annotations

import base64
import html
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import command_line, names
from .command_line import UsageError, checked_input
from .data import Data, Dataset
from .evaluate import Result, percent, progress
from .files import replacing
from .inference import Floats, Images, Trained
from .metrics import read_metrics
from .models import Convnet
from .models.layers import Conv2d, Flatten
from .predict import top

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, QUERIES, NEIGHBOURS = 8, 5, 6  # as in the paper's figure 4
MISTAKES = SHOWN // 2  # of the images shown; all of them by chance would show a good network's successes only
ACROSS = 16  # filters in a row, as in the paper's figure 3
ENLARGED = 4  # pixels of the picture for one of a filter
PICTURED = 30  # classes that a picture of the confusion matrix can hold
NUMBERED = 15  # classes that leave room for numbers in it
PAIRS = 10  # pairs of classes in the table of confusions
THUMBNAIL = 128  # pixels
LAYER_IMAGES = 16  # a network's activations for one image can take megabytes


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "report",
        "One HTML page on a trained network: curves, filters, answers, confusions, similar images, activations.",
        "Exit codes: 0 done, 1 failure, 2 wrong usage.",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="run folder")
    p.add_argument("--data", metavar="SOURCE", help="as for train (default: what the run was trained on)")
    p.add_argument("--out", type=Path, metavar="FILE", help="the page (default RUN/report.html)")
    p.add_argument(
        "--images",
        type=command_line.positive_int,
        default=2000,
        metavar="N",
        help="test images, and training images, that the page is about, at most (default 2000)",
    )
    p.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    folder = options.run if options.run.is_dir() else options.run.parent
    out: Path = options.out or folder / "report.html"
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected a file in a folder that exists")
    with checked_input():
        trained = Trained.load(options.run, command_line.device(options.device))
        data = trained.data(options.data)
    metrics = folder / "metrics.jsonl"
    epochs = read_metrics(metrics) if metrics.is_file() else []
    test = examine(trained, data.test, options.images, trained.probabilities, "test images")
    train = examine(trained, data.train, options.images, trained.features, "training images")
    with replacing(out) as aside:
        aside.write_text(page(trained, data, epochs, test, train), encoding="utf-8")
    print(names.text(out))
    return 0


@dataclass(frozen=True)
class Sample:
    """Some images of a data set: their numbers in it, their labels (N,), what the network made of them (N, ...)."""

    dataset: Dataset
    indices: NDArray[np.int64]
    labels: NDArray[np.int32]
    outputs: Floats

    def images(self, places: Iterable[int]) -> Images:
        return self.dataset.load(self.indices[list(places)])[0]


def examine(trained: Trained, dataset: Dataset, count: int, output: Callable[[Images], Floats], what: str) -> Sample:
    """``count`` images at random, or all if there are no more. UsageError when none of them can be read."""
    indices = np.arange(len(dataset))
    if count < len(indices):
        indices = np.sort(np.random.default_rng(0).choice(indices, count, replace=False))
    found, labels, outputs = list[NDArray[np.int64]](), list[NDArray[np.int32]](), list[Floats]()
    parts = [indices[first : first + trained.batch] for first in range(0, len(indices), trained.batch)]
    for part in progress(parts, what, len(parts)):
        images, labelled, places = dataset.load(part)
        if len(places):
            found.append(part[places])
            labels.append(labelled)
            outputs.append(output(images))
    if not found:
        raise UsageError(f"none of the {what} can be read")
    return Sample(dataset, np.concatenate(found), np.concatenate(labels), np.concatenate(outputs))


def nearest(query: Floats, features: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The places of the ``count`` rows of ``features`` (N, F) next to ``query`` (F,), the nearest first, and their
    Euclidean distances."""
    distances = np.sqrt(np.square(features - query).sum(axis=1))
    places = np.argsort(distances, kind="stable")[:count]
    return places, distances[places]


def tiled(filters: Floats) -> Images:
    """Filters (K, KH, KW, 3) from 0 to 1 side by side on transparent ground, as an RGBA picture."""
    K, KH, KW, _ = filters.shape
    rows = -(-K // ACROSS)
    cells = np.zeros((rows * ACROSS, KH + 1, KW + 1, 4), np.uint8)
    cells[:K, :KH, :KW, :3] = np.rint(255 * filters)
    cells[:K, :KH, :KW, 3] = 255
    picture = cells.reshape(rows, ACROSS, KH + 1, KW + 1, 4).transpose(0, 2, 1, 3, 4)
    flat = picture.reshape(rows * (KH + 1), ACROSS * (KW + 1), 4)[:-1, : min(K, ACROSS) * (KW + 1) - 1]
    return flat.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


# ---- the page

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then asks no server for anything
STYLE = """
:root{color-scheme:light dark;--text:#1c1e21;--dim:#5c6370;--ground:#fff;--card:#f4f5f7;--line:#d9dce1;--bar:#cbdcf0;
--right:#14602f;--wrong:#b3261e}
@media(prefers-color-scheme:dark){:root{--text:#e6e7ea;--dim:#a0a6b1;--ground:#121417;--card:#1d2025;--line:#353a42;
--bar:#2f4d70;--right:#6fcf8b;--wrong:#f28b82}.chart{filter:invert(1) hue-rotate(180deg)}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:64rem;font:1rem/1.5 system-ui,sans-serif;color:var(--text);
background:var(--ground);overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2}
h2{font-size:1.25rem;margin:2.5rem 0 .5rem;border-top:1px solid var(--line);padding-top:1rem}
p{max-width:44rem}
figure{margin:0}
figcaption{color:var(--dim);font-size:.875rem}
img{max-width:100%;height:auto;display:block}
.pixels{image-rendering:pixelated}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:normal}
th{white-space:nowrap}
.number{text-align:right;white-space:nowrap}
summary{cursor:pointer;padding:.5rem 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1rem}
.filters{width:48rem;margin-top:.75rem}
.cards{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:1rem}
.card{background:var(--card);border-radius:.5rem;padding:.75rem}
.card img{width:7rem;border-radius:.25rem}
.card figcaption{color:inherit;font-weight:600;margin:.25rem 0}
.bars{list-style:none;margin:0;padding:0;font-size:.8125rem}
.bars li{display:grid;grid-template-columns:1fr 3.5rem;gap:.375rem;margin-top:.125rem}
.bars .name{padding:0 .375rem;background:linear-gradient(var(--bar),var(--bar)) 0/var(--share) 100% no-repeat;
border-radius:.125rem}
.bars .true{font-weight:600;color:var(--right)}
.wrong{color:var(--wrong)}
.query{display:grid;grid-template-columns:minmax(0,1.25fr) repeat(6,minmax(0,1fr));gap:.5rem;
background:var(--card);border-radius:.5rem;padding:.75rem;margin-bottom:1rem}
.query img{width:100%;border-radius:.25rem}
.query figure:first-child{border-right:1px solid var(--line);padding-right:.5rem}
@media(max-width:40rem){th,td{padding-right:.5rem}td .chart{width:6rem}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}
.query{grid-template-columns:repeat(3,minmax(0,1fr))}
.query figure:first-child{grid-column:1/-1;border:0}.query figure:first-child img{width:8rem}}
"""


def page(trained: Trained, data: Data, records: Sequence[Mapping[str, Any]], test: Sample, train: Sample) -> str:
    """The whole page. test: class probabilities of test images; train: features of training images."""
    title = f"{trained.model.name} on {trained.config['data']}"
    epochs = [record for record in records if record["kind"] == "epoch"]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("meta", content=POLICY, **{"http-equiv": "Content-Security-Policy"}),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    content = tag(
        "main",
        tag("h1", title),
        summary(trained, data, epochs, test, train),
        curves(records, epochs) if epochs else "",
        answers(trained, test),
        confusions(trained, test),
        filters(trained),
        neighbours(trained, test, train),
        layers(trained, test),
        configuration(trained),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", content), lang="en") + "\n"


def summary(trained: Trained, data: Data, epochs: Sequence[Mapping[str, Any]], test: Sample, train: Sample) -> Html:
    result = Result(trained.model.name, 1, test.outputs, test.labels)
    rows = [
        ("network", f"{trained.model.name}: {trained.model.source}"),
        ("parameters", f"{trained.model.parameters:,}"),
        ("images", data.split),
    ]
    if epochs:
        best = max(epochs, key=lambda record: record["test_accuracy"])
        rows += [
            ("epochs", f"{epochs[-1]['epoch']:,}"),
            ("test accuracy", f"{epochs[-1]['test_accuracy']:.2%}"),
            ("at best", f"{best['test_accuracy']:.2%}, after epoch {best['epoch']:,}"),
        ]
    rows += [
        ("this page", f"{len(test.labels):,} test and {len(train.labels):,} training images, the centre of each"),
        ("test errors", f"top-1 {percent(result.error(1))}, top-5 {percent(result.error(5))}, of these"),
    ]
    return table((), rows)


def curves(records: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> Html:
    charts = [
        chart(partial(curve, records, epochs, what), f"{what.capitalize()} over epochs, of training and test images")
        for what in ("loss", "accuracy")
    ]
    header = ("epoch", "training loss", "training accuracy", "test loss", "test accuracy")
    rows = [
        (
            f"{record['epoch']:,}",
            number(record["train_loss"], ".4f"),
            number(record["train_accuracy"], ".2%"),
            number(record["test_loss"], ".4f"),
            number(record["test_accuracy"], ".2%"),
        )
        for record in epochs
    ]
    return section(
        "Training",
        tag("div", *charts, class_="charts"),
        tag("details", tag("summary", "Every epoch"), table(header, rows, numbers=range(5))),
    )


def curve(records: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]], what: str) -> Figure:
    """The loss, of steps too, or the accuracy, over the epochs."""
    drawn = figure(4.8, 3.2)
    axes = drawn.subplots()
    if what == "loss":
        steps = [record for record in records if record["kind"] == "step"]
        axes.plot(column(steps, "epoch"), column(steps, "loss"), color="C0", alpha=0.3, linewidth=1)
    for part, colour, label in (("train", "C0", "training"), ("test", "C1", "test")):
        values = column(epochs, f"{part}_{what}") * (100 if what == "accuracy" else 1)
        axes.plot(column(epochs, "epoch"), values, color=colour, marker=".", label=label)
    unit, top = ("accuracy, %", 101) if what == "accuracy" else ("loss", None)
    axes.set(xlabel="epoch", ylabel=unit, ylim=(0, top))
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn


def answers(trained: Trained, test: Sample) -> Html:
    """Test images with the five most probable classes (paper, figure 4, left)."""
    wrong = np.flatnonzero(test.outputs.argmax(axis=1) != test.labels)
    surest = wrong[np.argsort(-test.outputs[wrong].max(axis=1), kind="stable")][:MISTAKES]
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(test.labels)), surest))
    places = [*surest, *others[: SHOWN - len(surest)]]
    cards = []
    for place, image in zip(places, test.images(places), strict=True):
        true = trained.classes[test.labels[place]]
        bars = [
            tag(
                "li",
                tag("span", trained.classes[label], class_="name", style=f"--share:{probability:.1%}"),
                tag("span", f"{probability:.1%}", class_="number"),
                class_="true" if label == test.labels[place] else None,
            )
            for label, probability in top(test.outputs[place], 5)
        ]
        shown = picture(image, f"Test image: {true}"), tag("figcaption", true), tag("ol", *bars, class_="bars")
        cards.append(tag("figure", *shown, class_="card"))
    which = f"The {len(surest)} surest mistakes, then others by chance" if len(surest) else "By chance"
    return section(
        "Answers",
        tag("p", f"{which}: the true class under the image, then the five most probable, the true one bold and green."),
        tag("div", *cards, class_="cards"),
    )


def confusions(trained: Trained, test: Sample) -> Html:
    classes, count = trained.classes, len(trained.classes)
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (test.labels, test.outputs.argmax(axis=1)), 1)
    mistakes = matrix * ~np.eye(count, dtype=bool)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
    rows = [
        (classes[i], classes[j], f"{matrix[i, j]:,}", f"{matrix[i, j] / matrix[i].sum():.1%}")
        for i, j in zip(*np.unravel_index(order, matrix.shape), strict=True)
        if mistakes[i, j]
    ]
    alt = "Confusion matrix; the table below has its largest errors"
    header = ("images of", "taken for", "images", "of the class")
    return section(
        "Confusions",
        chart(partial(confusion_matrix, matrix, classes), alt) if count <= PICTURED else "",
        table(header, rows, numbers=(2, 3)) if rows else tag("p", "No image is taken for another class."),
    )


def confusion_matrix(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    from matplotlib.colors import PowerNorm

    side = 2 + 0.28 * len(classes)
    drawn = figure(side, side)
    axes = drawn.subplots()
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # the root, to tell few from none
    shown = [name if len(name) <= 16 else f"{name[:15]}…" for name in classes]
    axes.set_xticks(range(len(shown)), shown, rotation=90 if max(map(len, shown)) > 2 else 0, parse_math=False)
    axes.set_yticks(range(len(shown)), shown, parse_math=False)
    axes.set(xlabel="answer", ylabel="true class")
    if len(classes) <= NUMBERED:
        for (i, j), images in np.ndenumerate(matrix):
            if images:
                colour = "white" if shares[i, j] > 0.3 else "black"
                axes.text(j, i, f"{images}", ha="center", va="center", fontsize=7, color=colour)
    return drawn


def filters(trained: Trained) -> Html:
    """The filters of the first layer (paper, figure 3), on one scale."""
    model, arrays = trained.model, dict(trained.network.named_parameters())
    if isinstance(model, Convnet):
        seeing = [node.row.layer for node in model.nodes if node.inputs == ("",)]
        towers = [(layer.name, arrays[f"{layer.name}.w"].numpy()) for layer in seeing if isinstance(layer, Conv2d)]
    else:
        first = model.layers[0].name
        groups = max(getattr(layer, "groups", 1) for layer in model.layers)
        towers = [(first, w) for w in np.split(arrays[f"{first}.w"].numpy(), groups)]
    if not towers:
        return section("Filters of the first layer", tag("p", "No convolution sees the images."))
    least, greatest = min(w.min() for _, w in towers), max(w.max() for _, w in towers)
    pictures = []
    for i, (name, w) in enumerate(towers, 1):
        which = f" of tower {i}" if len(towers) > 1 else ""
        scaled = (w - least) / max(float(greatest - least), np.finfo(np.float32).tiny)
        image = tag("img", src=png(tiled(scaled)), alt=f"The {len(w)} filters{which} in {name}", class_="filters")
        pictures.append(tag("figure", image, tag("figcaption", f"Tower {i}") if which else ""))
    sizes = " and ".join(dict.fromkeys(by(w.shape[1:]) for _, w in towers))
    scale = "scaled together: 0 is the least of all weights, 255 the greatest"
    count = sum(len(w) for _, w in towers)
    return section("Filters of the first layer", tag("p", f"{count} filters of {sizes}, {scale}."), *pictures)


def neighbours(trained: Trained, test: Sample, train: Sample) -> Html:
    """Test images and the training images nearest to them (paper, figure 4, right)."""
    rng = np.random.default_rng(0)
    _, first = np.unique(test.labels, return_index=True)
    queries = rng.permutation(first)[:QUERIES]
    images = test.images(queries)
    rows, same, total = [], 0, 0
    for query, image, features in zip(queries, images, trained.features(images), strict=True):
        label = test.labels[query]
        places, distances = nearest(features, train.outputs, NEIGHBOURS)
        name = trained.classes[label]
        cells = [tag("figure", picture(image, f"Test image: {name}"), tag("figcaption", name))]
        for place, distance, found in zip(places, distances, train.images(places), strict=True):
            other = trained.classes[train.labels[place]]
            right = train.labels[place] == label
            same, total = same + bool(right), total + 1
            named = tag("span", other, class_=None if right else "wrong")
            caption = tag("figcaption", named, f" at {distance:.3g}")
            cells.append(tag("figure", picture(found, f"Training image: {other}"), caption))
        rows.append(tag("div", *cells, class_="query"))
    return section(
        "Similar images",
        tag(
            "p",
            f"A test image, then the {NEIGHBOURS} training images nearest to it, by the Euclidean distance of the "
            f"{train.outputs.shape[1]:,} numbers that {trained.hidden} makes of an image. "
            f"{same} of {total} are of its class; the classes of the others are red.",
        ),
        *rows,
    )


def layers(trained: Trained, test: Sample) -> Html:
    images = test.images(range(min(LAYER_IMAGES, len(test.labels))))
    named = [layer.name for layer in trained.model.layers if not isinstance(layer, Flatten)]
    rows = []
    for name, y in trained.activations(images, named).items():
        zeros = 1 - np.count_nonzero(y) / y.size
        numbers = f"{y.mean():.3g}", f"{y.std():.3g}", f"{zeros:.1%}"
        rows.append((name, by(y.shape[1:]), *numbers, histogram(y, name)))
    header = ("layer", "output", "mean", "std", "zeros", "values except 0")
    return section(
        "Activations",
        tag("p", f"What the layers put out for {len(images)} test images."),
        table(header, rows, numbers=(2, 3, 4)),
    )


def histogram(y: Floats, name: str) -> Html:
    values = y[np.isfinite(y) & (y != 0)]
    if not len(values):
        return Html()
    low, high = np.quantile(values, (0.001, 0.999))
    low, high = min(low, 0), max(high, 0)

    def draw() -> Figure:
        drawn = figure(2.4, 0.5)
        axes = drawn.subplots()
        axes.stairs(*np.histogram(values, 48, (low, high)), fill=True)
        axes.set_axis_off()
        return drawn

    return chart(draw, f"Histogram of {name}, from {low:.3g} to {high:.3g}", f"{low:.3g} to {high:.3g}")


def configuration(trained: Trained) -> Html:
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in trained.config.items()
    ]
    return section("Configuration", table(("entry", "value"), rows))


# ---- HTML


class Html(str):
    """HTML, as opposed to text that stands for itself."""


def tag(name: str, /, *inside: str, **attributes: str | None) -> Html:
    """An element; what is inside is escaped unless it is Html. ``class_`` is its class; None: no such attribute."""
    given = "".join(f' {k.rstrip("_")}="{html.escape(v)}"' for k, v in attributes.items() if v is not None)
    content = "".join(part if isinstance(part, Html) else html.escape(part) for part in inside)
    return Html(f"<{name}{given}>" if name in ("img", "meta") else f"<{name}{given}>{content}</{name}>")


def section(title: str, *inside: str) -> Html:
    return tag("section", tag("h2", title), *inside)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> Html:
    """A table; the columns ``numbers`` are aligned to the right. Without a header the first column heads the rows."""
    right = dict.fromkeys(numbers, "number")
    head = [tag("th", cell, scope="col", class_=right.get(i)) for i, cell in enumerate(header)]
    body = [
        tag("tr", *(tag("td", cell, class_=right.get(i)) for i, cell in enumerate(row)))
        if header
        else tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    inside = tag("thead", tag("tr", *head)) if header else "", tag("tbody", *body)
    return tag("div", tag("table", *inside), class_="scroll")


def number(value: float | None, form: str) -> str:
    """A number, or nothing where a run had none."""
    return "" if value is None else format(value, form)


def by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def column(records: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([record[name] for record in records], np.float64)


def figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def chart(draw: Callable[[], Figure], alt: str, caption: str = "") -> Html:
    """A figure on transparent ground, so that it fits a dark page once its colours are inverted; where it cannot be
    drawn, page and command line say so in its place."""
    stream = io.BytesIO()
    try:
        drawn = draw()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names of classes may have letters that the font lacks
            drawn.savefig(stream, format="png", dpi=200, transparent=True)
    except Exception as e:  # a drawing can fail in many ways, and the page is of use without it
        said = f"{alt}: could not be drawn: {' '.join(str(e).split()) or type(e).__name__}"
        print(said, file=sys.stderr)
        return tag("figure", tag("figcaption", said))
    width = f"{100 * drawn.get_figwidth():.0f}"
    image = tag("img", src=uri(stream.getvalue()), alt=alt, width=width, class_="chart")
    return tag("figure", image, tag("figcaption", caption) if caption else "")


def picture(image: Images, alt: str) -> Html:
    """An image (H, W, 3) as a thumbnail."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "pixels" if max(small.size) <= THUMBNAIL // 2 else None
    size = {"width": str(small.width), "height": str(small.height)}
    return tag("img", src=png(np.asarray(small)), alt=alt, class_=kind, **size)


def png(pixels: Images) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", optimize=True)
    return uri(stream.getvalue())


def uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


if __name__ == "__main__":
    sys.exit(command_line.run(main))
