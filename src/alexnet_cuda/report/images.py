"""The sections of the report about images: what the network makes of them, and what that rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import charts, metrics, saliency
from ..data import Data, DataError, Dataset
from ..evaluate import Result, percent, progress
from ..inference import Floats, Images, Trained
from ..metrics import Score
from ..pages import Html, Section, chart, details, picture, section, table, tag
from ..predict import top

SHOWN, QUERIES, NEIGHBOURS = 8, 5, 6  # as in the paper's figure 4
MISTAKES = SHOWN // 2  # of the images shown; all of them by chance would show a good network's successes only
MOST = 30  # classes in the matrix, and in a table that is not folded up
WORST = 10  # classes in the table when there are more
DENSE = 15  # classes from which on the matrix is of small letters
SHORT = 4  # characters of names that stand upright over the matrix
PAIRS = 10  # pairs of classes in the table of confusions
LAYER_IMAGES = 16  # a network's activations for one image can take megabytes
STYLE = """
:root{--red:179 38 30;--green:20 130 60}
@media(prefers-color-scheme:dark){:root{--red:235 85 75;--green:60 175 100}}
.cards,.reasons{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1rem}
.card{display:grid;grid-template:auto 1fr/7rem minmax(0,1fr);gap:0 .75rem;background:var(--card);border-radius:.5rem;
padding:.75rem}
.card img{grid-row:1/3;width:7rem;border-radius:.25rem}
.card figcaption{color:inherit;font-weight:600}
.bars{list-style:none;margin:0;padding:0;font-size:.8125rem}
.bars li{display:grid;grid-template-columns:1fr 3.5rem;gap:.375rem;margin-top:.125rem}
.bars .name{padding:0 .375rem;background:linear-gradient(var(--bar),var(--bar)) 0/var(--share) 100% no-repeat;
border-radius:.125rem}
.bars .true{font-weight:600;color:var(--right)}
.wrong{color:var(--wrong)}
.reason{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.5rem;background:var(--card);
border-radius:.5rem;padding:.75rem}
.reason img{width:100%;border-radius:.25rem}
.matrix{border-collapse:separate;border-spacing:1px}
.matrix{margin-bottom:1rem}
.matrix th,.matrix td{border:0;padding:.25rem;min-width:2.4rem;text-align:center;white-space:nowrap}
.matrix th{font-weight:400;overflow:hidden;text-overflow:ellipsis}
.matrix tbody th{min-width:0;position:sticky;left:0;background:var(--ground);text-align:right;max-width:10rem}
.matrix .long{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;max-height:10rem}
.dense{font-size:.75rem}
.dense th,.dense td{padding:.125rem;min-width:1.6rem}
.matrix td{background:rgb(var(--red)/var(--share))}
.matrix .right{background:rgb(var(--green)/var(--share))}
.query{display:grid;grid-template-columns:minmax(0,1.25fr) repeat(6,minmax(0,1fr));gap:.5rem;
background:var(--card);border-radius:.5rem;padding:.75rem;margin-bottom:1rem}
.query img{width:100%;border-radius:.25rem}
.query figure:first-child{border-right:1px solid var(--line);padding-right:.5rem}
@media(max-width:40rem){.layers td{overflow-wrap:normal}.layers tr>:last-child{grid-column:1/-1}
.cards,.reasons{grid-template-columns:minmax(0,1fr)}
.matrix tbody th{max-width:5rem}.matrix thead th,.matrix td{min-width:1.7rem}
.query{grid-template-columns:repeat(3,minmax(0,1fr))}
.query figure:first-child{grid-column:1/-1;border:0}.query figure:first-child img{width:8rem}}
"""


@dataclass(frozen=True)
class Sample:
    """Some images of a data set: their numbers in it, their labels (N,), what the network made of them (N, ...)."""

    dataset: Dataset
    indices: NDArray[np.int64]
    labels: NDArray[np.int32]
    outputs: Floats

    def images(self, places: Iterable[int]) -> Images:
        return self.dataset.load(self.indices[list(places)])[0]


@dataclass(frozen=True)
class Examined:
    """The images that the page is about: class probabilities of test images, features of training images."""

    data: Data
    test: Sample
    train: Sample

    @property
    def answers(self) -> NDArray[np.int64]:
        """The classes (N,) that the test images are taken for."""
        return self.test.outputs.argmax(axis=1)

    @property
    def confusions(self) -> NDArray[np.int64]:
        return metrics.confusion_matrix(self.test.labels, self.answers, self.test.outputs.shape[1])


def examine(trained: Trained, source: str | None, count: int) -> Examined:
    """``count`` test and training images of ``source``, as for ``--data``. DataError when they cannot be had."""
    data = trained.data(source)
    test = sample(trained, data.test, count, trained.probabilities, "test images")
    train = sample(trained, data.train, count, trained.features, "training images")
    return Examined(data, test, train)


def sample(trained: Trained, dataset: Dataset, count: int, output: Callable[[Images], Floats], what: str) -> Sample:
    """``count`` images at random, or all if there are no more. DataError when none of them can be read."""
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
        raise DataError(f"none of the {what} can be read")
    return Sample(dataset, np.concatenate(found), np.concatenate(labels), np.concatenate(outputs))


def summary(found: Examined | str) -> list[tuple[str, str]]:
    """Names and values: the images, and how well they are recognised; or why there are none."""
    if isinstance(found, str):
        return [("images", f"none, so this page is about the training alone: {found}")]
    test, train = found.test, found.train
    result = Result("", 1, test.outputs, test.labels)
    return [
        ("images", found.data.split),
        ("this page", f"{len(test.labels):,} test and {len(train.labels):,} training images, the centre of each"),
        ("test errors", f"top-1 {percent(result.error(1))}, top-5 {percent(result.error(5))}, of these"),
    ]


# ---- answers


def shown(examined: Examined) -> tuple[list[int], int]:
    """The places of the test images that are shown, and how many of them, the first, are the surest mistakes."""
    test = examined.test
    wrong = np.flatnonzero(examined.answers != test.labels)
    surest = wrong[np.argsort(-test.outputs[wrong].max(axis=1), kind="stable")][:MISTAKES]
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(test.labels)), surest))
    return [*surest.tolist(), *others[: SHOWN - len(surest)].tolist()], len(surest)


def answers(trained: Trained, examined: Examined) -> Section:
    """Test images with the five most probable classes (paper, figure 4, left)."""
    test = examined.test
    places, surest = shown(examined)
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
        parts = picture(image, f"Test image: {true}"), tag("figcaption", true), tag("ol", *bars, class_="bars")
        cards.append(tag("figure", *parts, class_="card"))
    which = f"The {surest} surest mistakes, then others by chance" if surest else "By chance"
    return section(
        "Answers",
        tag("p", f"{which}: the true class, then the five most probable, the true one bold and green."),
        tag("div", *cards, class_="cards"),
    )


def reasons(trained: Trained, examined: Examined) -> Section | None:
    """The same images as the network sees them, with what their answers rest on; None without a convolution."""
    convolutions = saliency.last_convolutions(trained.model)
    if not convolutions:
        return None
    places, _ = shown(examined)
    images, labels = examined.test.images(places), examined.answers[places].astype(np.int32)
    hidden = saliency.occlusion(trained, images, labels)
    active = saliency.class_activation(trained, images, labels)
    (first, left, _), (H, W, _) = trained.centre[0], trained.model.input
    seen = images[:, first : first + H, left : left + W]
    figures = []
    for place, image, label, under, activation in zip(places, seen, labels, hidden, active, strict=True):
        name, before = trained.classes[label], examined.test.outputs[place, label]
        parts = [
            (image, f"Test image, taken for {name}", f"{name}, {before:.1%}"),
            (heated(image, before - under), f"Occlusion map for {name}", f"occluded, {under.min():.1%}"),
            (heated(image, activation), f"Class activation for {name}", "Grad-CAM"),
        ]
        cells = (tag("figure", picture(shown, alt), tag("figcaption", text)) for shown, alt, text in parts)
        figures.append(tag("div", *cells, class_="reason"))
    text = (
        "The same images as the network sees them, with its answers, and two maps, bright where the answer comes from. "
        f"Occluded: where it becomes less probable, down to what, when a square of {saliency.SHARE:.0%} of the sides "
        f"is hidden (Zeiler and Fergus 2014). Grad-CAM: where {' and '.join(convolutions)} sees what speaks for it, by "
        "the gradient (Selvaraju et al. 2017)."
    )
    return section("What the answers rest on", tag("p", text), tag("div", *figures, class_="reasons"))


def heated(image: Images, heat: Floats) -> Images:
    """An image (H, W, 3) in grey, under a map (h, w) of any size in colours, from 0 or less to its greatest value."""
    from matplotlib import colormaps

    H, W = image.shape[:2]
    scaled = np.maximum(heat, 0) / max(float(heat.max()), np.finfo(np.float32).tiny)
    smooth = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize((W, H), Image.Resampling.BILINEAR))
    colours = 255 * colormaps["inferno"](smooth)[..., :3]
    grey = image.mean(axis=2, keepdims=True)
    return np.rint(0.4 * grey + 0.6 * colours).astype(np.uint8)


# ---- classes


def class_rows(trained: Trained, examined: Examined) -> Iterator[Sequence[object]]:
    """A table of the classes for other programs, its header first."""
    yield "class", *Score._fields
    yield from (
        (name, *score) for name, score in zip(trained.classes, metrics.scores(examined.confusions), strict=True)
    )


def confusion_rows(trained: Trained, examined: Examined) -> Iterator[Sequence[object]]:
    """The confusion matrix for other programs: a row of numbers of images for each true class, a column an answer."""
    yield "true class", *trained.classes
    yield from ((name, *row) for name, row in zip(trained.classes, examined.confusions.tolist(), strict=True))


def classes(trained: Trained, examined: Examined) -> Section:
    """Precision and recall of each class; of many, the worst first and the others folded up."""
    scores = metrics.scores(examined.confusions)
    named = list(zip(trained.classes, scores, strict=True))
    means = (metrics.mean(column) for column in zip(*(score[2:] for score in scores), strict=True))
    mean = "mean", "", "", *map(_share, means)
    header = "class", "images", "answers", "precision", "recall", "F1"

    def rows(some: Iterable[tuple[str, Score]]) -> Html:
        cells = [(name, f"{s.images:,}", f"{s.answered:,}", *map(_share, s[2:])) for name, s in some]
        return table(header, [*cells, mean], numbers=range(1, 6), class_="stacked")

    text = (
        "Recall: the share of a class's images that are recognised. Precision: the share of the answers of that class "
        "that are right. F1: their harmonic mean."
    )
    if len(named) <= MOST:
        return section("Classes", tag("p", text), rows(named))
    worst = sorted((pair for pair in named if pair[1].f1 is not None), key=lambda pair: pair[1].f1 or 0)[:WORST]
    intro = tag("p", f"{text} The {len(worst)} classes with the lowest F1, and the mean of all:")
    return section("Classes", intro, rows(worst), details(f"All {len(named):,} classes", rows(named)))


def confusions(trained: Trained, examined: Examined) -> Section:
    """What is taken for what: the matrix, and the largest of its errors."""
    names, matrix = trained.classes, examined.confusions
    mistakes = matrix * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
    rows = [
        (names[i], names[j], f"{matrix[i, j]:,}", f"{matrix[i, j] / matrix[i].sum():.1%}")
        for i, j in zip(*np.unravel_index(order, matrix.shape), strict=True)
        if mistakes[i, j]
    ]
    header = "images of", "taken for", "images", "of the class"
    places = np.arange(len(names))
    about = "Rows are true classes, columns answers; right ones green, mistakes red, by their share of the class."
    if len(names) > MOST:
        places = np.sort(np.argsort(-(mistakes + mistakes.T).sum(axis=1), kind="stable")[:MOST])
        about += f" Of {len(names):,} classes those {MOST} that are in the most mistakes; --csv writes all."
    largest = table(header, rows, numbers=(2, 3)) if rows else tag("p", "No image is taken for another class.")
    return section("Confusions", tag("p", about), _matrix(matrix, names, places), largest)


def _matrix(matrix: NDArray[np.int64], names: Sequence[str], places: NDArray[np.int64]) -> Html:
    """These rows and columns of the confusion matrix."""
    kind = "long" if max(len(names[j]) for j in places) > SHORT else None
    head = [tag("th", names[j], scope="col", title=names[j], class_=kind) for j in places]
    body = []
    for i in places:
        cells = [tag("th", names[i], scope="row", title=names[i])]
        for j in places:
            share = matrix[i, j] / max(1, matrix[i].sum())
            strength = f"--share:{0.7 * share**0.5:.2f}"  # the root, to tell few from none
            text = f"{matrix[i, j]:,}" if matrix[i, j] else ""
            cells.append(tag("td", text, class_="right" if i == j else None, style=strength if text else "--share:0"))
        body.append(tag("tr", *cells))
    inside = tag("thead", tag("tr", tag("td", "", style="--share:0"), *head)), tag("tbody", *body)
    return tag("div", tag("table", *inside, class_=f"matrix{' dense' * (len(places) > DENSE)}"), class_="scroll")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


# ---- features


def nearest(query: Floats, features: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The places of the ``count`` rows of ``features`` (N, F) next to ``query`` (F,), the nearest first, and their
    Euclidean distances."""
    distances = np.sqrt(np.square(features - query).sum(axis=1))
    places = np.argsort(distances, kind="stable")[:count]
    return places, distances[places]


def neighbours(trained: Trained, examined: Examined) -> Section:
    """Test images and the training images nearest to them (paper, figure 4, right)."""
    test, train = examined.test, examined.train
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


def layers(trained: Trained, examined: Examined) -> Section:
    """What each layer puts out: shape, moments, histogram."""
    images = examined.test.images(range(min(LAYER_IMAGES, len(examined.test.labels))))
    named = [layer.name for layer in trained.model.layers if layer.kind != "Flatten"]
    rows = []
    for name, y in trained.activations(images, named).items():
        zeros = 1 - np.count_nonzero(y) / y.size
        numbers = f"{y.mean():.3g}", f"{y.std():.3g}", f"{zeros:.1%}"
        rows.append((name, "x".join(map(str, y.shape[1:])), *numbers, histogram(y, name)))
    header = "layer", "output", "mean", "std", "zeros", "values except 0"
    return section(
        "Activations",
        tag("p", f"What the layers put out for {len(images)} test images."),
        table(header, rows, numbers=(2, 3, 4), class_="stacked layers"),
    )


def histogram(y: Floats, name: str) -> Html:
    values = y[np.isfinite(y) & (y != 0)]
    if not len(values):
        return Html()
    low, high = np.quantile(values, (0.001, 0.999))
    low, high = min(low, 0), max(high, 0)
    draw = partial(charts.histogram, values=values, low=low, high=high)
    return chart((2.4, 0.5), draw, f"Histogram of {name}, from {low:.3g} to {high:.3g}", f"{low:.3g} to {high:.3g}")
