"""Recipes: all that decides how a model is trained, as TOML files; one for each model is in the folder ``recipes``."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from . import kernels, models
from .files import decoded
from .suggest import nearest

__all__ = [
    "BALANCED",
    "ClassWeights",
    "LayerRule",
    "Patterns",
    "Recipe",
    "RecipeError",
    "Scale",
    "Steps",
    "change",
    "checked",
    "described",
    "load",
    "names",
    "of",
    "of_convnet",
    "outwards",
    "plain",
    "read",
    "settings",
    "toml",
]

FOLDER = files(__package__) / "recipes"


class RecipeError(ValueError):
    """A recipe cannot be used; the message is one line that says why."""


Steps = tuple[tuple[float, float], ...]
"""(epoch, factor): from that many finished epochs on, the rate is multiplied by that factor."""

ClassWeights = tuple[float, ...] | str
"""One for each class, or ``BALANCED``."""

Scale = float | tuple[float, ...]
"""One for all channels, or one for each."""

Patterns = tuple[str, ...]
"""Names of layers or of arrays, such as conv1 or conv1.w, in which * and others stand for what the shell has them."""

BALANCED = "balanced"
"""Weights of the classes that are to be made of the training images."""


@dataclass(frozen=True)
class LayerRule:
    """What one layer does otherwise: factors of its rates (``weight_lr`` of the weights' alone, ``bias_lr`` of the
    biases'), momenta and decay, and its own steps instead of the schedule's."""

    lr: float = 1.0
    """Factor of the layer's rates; 0 freezes it."""
    weight_lr: float = 1.0
    """Factor of the weights' rate."""
    bias_lr: float = 1.0
    """Factor of the biases' rate."""
    momentum: float = 1.0
    """Factor of SGD's, of the weights."""
    bias_momentum: float = 1.0
    """Factor of SGD's, of the biases."""
    decay: float = 1.0
    """Factor of the decay."""
    steps: Steps = ()
    """[epoch, factor] of the layer's rates instead of the schedule's."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The defaults are the paper's (section 5), the rate falling along a cosine."""

    model: str = "alexnet-mini"
    """The network's name."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the model to exchange (``Model.changed``)."""
    convnet: Mapping[str, Any] = field(default_factory=dict)
    """The files of cuda-convnet that the model is made of (``models.Convnet.files``)."""
    code: Mapping[str, Any] = field(default_factory=dict)
    """The file that makes the model (``models.Own.code``, ``models.Deploy.code``), of an ONNX file its graph. Without
    either it is one that is known by name."""
    epochs: int = 90
    """Passes over the training images."""
    batch: int = 128
    """Images a step."""
    accumulate: int = 1
    """Parts into which a batch is cut, to save memory; their gradients are added up."""
    optimizer: str = "sgd"
    """sgd; adam; adamw, whose decay is apart from the gradient (Loshchilov and Hutter 2019)."""
    lr: float = 0.01
    """Learning rate at first."""
    momentum: float = 0.9
    """SGD's; Adam's beta1."""
    nesterov: bool = False
    """SGD's momentum in Nesterov's form (Sutskever et al. 2013)."""
    ema: float = 0.0
    """Above 0: what is tested, saved and used is the exponential moving average of the weights over the steps (Polyak
    and Juditsky 1992), in which a step weighs this times as much as the next."""
    adam: str = "keras"
    """Whose form of Adam it is, with that library's epsilon; they differ where gradients are small."""
    decay: float = 0.0005
    """Of the weights."""
    clip: float = 0.0
    """Largest norm of all gradients together; larger ones are scaled down. 0: any."""
    bias_lr: float = 1.0
    """Factor of the biases' rate."""
    bias_decay: float = 1.0
    """Factor of the biases' decay."""
    bias_schedule: bool = True
    """Whether the biases' rate follows the schedule."""
    schedule: str = "cosine"
    """constant; cosine; step: by ``steps``; plateau: times ``drop`` when the test error has not fallen for ``patience``
    epochs, ``drops`` times, then the end."""
    steps: Steps = ()
    """[epoch, factor] of the rate, one after the other; of schedule = 'step'."""
    drop: float = 0.1
    """Factor by which a plateau lowers the rate."""
    drops: int = 3
    """How often it does."""
    patience: int = 5
    """Epochs without a better test after which it does."""
    warmup: float = 0.0
    """Epochs at first in which all rates grow linearly, step by step, to where the schedule has them (Goyal et al.
    2017); a cosine falls over the epochs after them."""
    stop_after: int = 0
    """The run ends when the test accuracy has not risen for so many epochs (early stopping; Prechelt 1998). 0: only
    when all epochs are done. A plateau ends by itself."""
    label_smoothing: float = 0.0
    """Share of the training's loss that all classes have alike (Szegedy et al. 2016, section 7)."""
    class_weights: ClassWeights = ()
    """Weights of the classes in the training's loss, in their order; none: all are 1. balanced: in inverse proportion
    to how often a class is among the training images, on average over these 1; a run keeps the numbers."""
    layers: Mapping[str, LayerRule] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors of rates by pattern; of several that match a parameter, their product."""
    new_lr: float = 1.0
    """Factor of the rates of layers that a training from weights draws anew; a run keeps it among its ``rates``."""
    freeze: Patterns = ()
    """What stays as it is: no gradient is computed for these parameters, nothing kept, and batch normalisation whose
    parameters are among them uses its running statistics and leaves them alone."""
    precision: str = "fp32"
    """fp32; tf32: products of operands rounded to 10 bits, on tensor cores; bf16: to 7 bits, and activations and their
    gradients are stored so. Sums, parameters and updates are in fp32. On a CPU the last two give the numbers of a GPU,
    slowly."""
    winograd: bool = True
    """Convolutions with fewer products, and ten times the rounding errors, where that is faster (on CPUs)."""
    graph: bool = True
    """On a GPU each step as one CUDA graph, where it can be recorded; the results are the same."""
    scale: Scale = 1.0
    """Factor of the pixels (0 to 255, the mean subtracted) on their way into the network, or one for each of RGB."""
    stored: int = 0
    """Pixels to which images are scaled and cut before crops are taken. 0: an eighth to a seventh more than the network
    sees, as 256 is to 224; data of a size of their own keep it."""
    crop: bool = True
    """Random crops of images that are stored a little larger than the input (section 4.1)."""
    mirror: bool | None = None
    """Mirrored images too. Not given: where the data allow it."""
    colour: str = "none"
    """Colour noise along the principal components of the pixels (section 4.1): paper: times the eigenvalues; source:
    times the standard deviations, as the source has it; none."""
    colour_steps: Steps = ()
    """Factors of the colour noise by epoch."""
    crop_area: float = 1.0
    """Below 1: crops of that share of an image to all of it, drawn evenly, are resized to the input (Szegedy et al.
    2015, section 6), bilinearly, with antialias where they shrink."""
    crop_aspect: float = 4 / 3
    """How many times longer a resized crop's one side may be beside the other; both ways, logarithms drawn evenly."""
    rotation: float = 0.0
    """Largest angle in degrees, either way, drawn evenly; beyond an image's edge its last pixels are repeated."""
    brightness: float = 0.0
    """Largest share of the pixels' range that is added to an image or taken from it, drawn evenly."""
    contrast: float = 0.0
    """An image's difference from the mean is multiplied by 1 - this to 1 + this, drawn evenly."""
    mixup: float = 0.0
    """Above 0: images are mixed with their neighbours in the batch, and their losses with those of the neighbours'
    labels, in shares from Beta(mixup, mixup) (Zhang et al. 2018)."""

    def frozen(self, name: str) -> bool:
        """Whether the parameter of that name (``conv1.w``) stays as it is."""
        return any(_matches(pattern, name) for pattern in self.freeze)

    def rate(self, name: str) -> float:
        """The product of the ``rates`` whose pattern the name of a parameter matches."""
        return math.prod(rate for pattern, rate in self.rates.items() if _matches(pattern, name))

    def described(self) -> models.Model:
        """The model, with the recipe's options. ValueError where there is none such."""
        return models.described(self.model, self.options, self.convnet, self.code)

    def rule(self, path: str) -> LayerRule:
        """That of a layer, by its dotted path, or else of the module nearest around it that has one."""
        return next((self.layers[name] for name in outwards(path) if name in self.layers), LayerRule())


CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "adam": tuple(kernels.ADAM_EPSILONS),
    "precision": kernels.PRECISIONS,
    "schedule": ("constant", "cosine", "step", "plateau"),
    "colour": ("none", "paper", "source"),
}
POSITIVE = ("epochs", "batch", "accumulate", "lr", "drop", "patience", "new_lr", "crop_area")
NOT_NEGATIVE = (
    "decay", "clip", "bias_lr", "bias_decay", "drops", "warmup", "stop_after", "stored", "rotation", "mixup",
)  # fmt: skip
FRACTIONS = ("momentum", "ema", "label_smoothing", "brightness", "contrast")
LARGEST_ROTATION = 45  # degrees; further on rows and columns had to change their parts


def described() -> list[tuple[str, str, str]]:
    """Every entry as ``settings`` takes it: its name, its value by default as TOML, and what it is, in words."""
    told, own, texts = [], _texts(Recipe), _texts(LayerRule)
    for entry in fields(Recipe):
        if entry.name == "rates":
            told.append(("rates.PATTERN", "1.0", own[entry.name]))
        if entry.default is MISSING:  # tables: those that --set knows are told by their entries
            continue
        default = "" if entry.default is None else _toml(entry.default)
        choices = f"One of {', '.join(CHOICES[entry.name])}." if entry.name in CHOICES else ""
        told.append((entry.name, default, " ".join(filter(None, (own[entry.name], choices)))))
    for name, values in models.OPTIONS.items():
        told.append((f"model.{name}", "", f"Instead of what the model has: {' or '.join(map(_toml, values))}."))
    told += [(f"layers.NAME.{entry.name}", _toml(entry.default), texts[entry.name]) for entry in fields(LayerRule)]
    return told


def _texts(kind: type) -> dict[str, str]:
    """The strings below the fields of a data class, on one line each; "" where there is none."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    texts = {}
    for field_, below in zip(made.body, [*made.body[1:], ast.Pass()], strict=True):
        if isinstance(field_, ast.AnnAssign) and isinstance(field_.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            texts[field_.target.id] = " ".join(str(text).replace("``", "").split())
    return texts


def outwards(path: str) -> Iterator[str]:
    """The dotted path of a module, and those of the modules around it: a.b.c, a.b, a."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def names() -> list[str]:
    """Names of the recipes that come with the package: those of their models, ``finetune`` and ``small``, which go with
    any."""
    return sorted(path.name.removesuffix(".toml") for path in FOLDER.iterdir() if path.name.endswith(".toml"))


def of_convnet(model: models.Convnet) -> Recipe:
    """A recipe that trains a model from cuda-convnet's files at their rates, momenta and decays, which do not change.
    Each layer's are factors of the largest ones, so that another ``lr`` scales all."""
    rates = model.rates.values()
    lr = max((r.lr for r in rates), default=0) or max((r.bias_lr for r in rates), default=0) or Recipe.lr
    momentum = max((m for r in rates for m in (r.momentum, r.bias_momentum)), default=0)
    decay = max((r.decay for r in rates), default=0)
    layers = {
        name: LayerRule(
            weight_lr=r.lr / lr,
            bias_lr=r.bias_lr / lr,
            momentum=r.momentum / (momentum or 1),
            bias_momentum=r.bias_momentum / (momentum or 1),
            decay=r.decay / (decay or 1),
        )
        for name, r in model.rates.items()
    }
    return Recipe(
        **model.entries(),
        lr=lr,
        momentum=momentum,
        decay=decay,
        bias_decay=0.0,
        schedule="constant",
        layers=layers,
    )


def of(model: models.Model) -> Recipe:
    """The recipe of a model: that of its files, or of its name. For others the defaults, but for pixels of a size that
    weights of usual initialisers (He, Glorot) can take, and batches for data sets of usual sizes."""
    if isinstance(model, models.Convnet):
        return of_convnet(model)
    if isinstance(model, models.Own | models.Deploy):
        return Recipe(**model.entries(), batch=32, epochs=30, scale=1 / 64)
    return load(model.name) if model.name in names() else Recipe(model=model.name)


def load(name: str) -> Recipe:
    """The recipe of that name, or in that TOML file. RecipeError for an unknown name, a missing file, a wrong entry."""
    return change(Recipe(), *read(name))


def read(name_or_file: str) -> tuple[dict[str, Any], str]:
    """The entries of the recipe of that name, or in that TOML file, and where they come from. RecipeError for an
    unknown name, and for a file that is missing or not TOML."""
    if name_or_file in names():
        text, where = (FOLDER / f"{name_or_file}.toml").read_text(encoding="utf-8"), name_or_file
    else:
        path = Path(name_or_file)
        if not path.is_file():
            known = f"{', '.join(names())}{nearest(name_or_file, names())}"
            raise RecipeError(f"unknown recipe {name_or_file!r}: no such file, and not one of {known}")
        try:
            text, where = decoded(path.read_bytes()), str(path)
        except (OSError, UnicodeDecodeError) as e:
            raise RecipeError(f"{path}: cannot be read: {e}") from e
    try:
        return tomllib.loads(text), where
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"{where}: not TOML: {e}") from e


def change(recipe: Recipe, table: Mapping[str, Any], where: str, beside: Sequence[str] = ()) -> Recipe:
    """The recipe with these entries; ``where`` they come from, and which could have been ``beside`` them, is for
    messages. RecipeError for unknown entries, with the nearest known, and for values of the wrong type or out of
    range."""
    values = dict(table)
    if "layers" in values:
        rules = values["layers"]
        if not isinstance(rules, Mapping) or not all(isinstance(rule, Mapping) for rule in rules.values()):
            raise RecipeError(f"{where}: layers: expected a table of tables, got {rules!r}")
        values["layers"] = {
            name: replace(recipe.layers.get(name, LayerRule()), **checked(LayerRule, rule, f"{where}: layers.{name}"))
            for name, rule in _by_path(rules)
        }
    if isinstance(values.get("rates"), Mapping):
        values["rates"] = {**recipe.rates, **_flat(values["rates"])}
    if "model" in values and "code" not in values and isinstance(values["model"], str):
        values |= models.entries(values["model"])
    if "options" in values and isinstance(values["options"], Mapping):
        values["options"] = {**recipe.options, **values["options"]}
    changed = replace(recipe, **checked(Recipe, values, where, beside))
    _check(changed, where)
    return changed


def _by_path(rules: Mapping[str, Any], around: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The rules of a table in which those of modules inside of others may be tables in theirs, by dotted paths."""
    for name, rule in rules.items():
        path, entries = f"{around}{name}", {key: v for key, v in rule.items() if not isinstance(v, Mapping)}
        if entries or not rule:
            yield path, entries
        yield from _by_path({key: v for key, v in rule.items() if isinstance(v, Mapping)}, f"{path}.")


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` entries of the command line as the table that ``change`` takes. Values are TOML's, or bare words;
    ``model.lrn`` names an option of the model, ``layers.conv1.lr`` an entry of a layer's rule, ``rates.conv*`` a
    pattern. RecipeError for what is no entry."""
    table: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        *path, last = key.strip().split(".")
        if not equals or not last:
            raise RecipeError(f"--set {text}: expected key=value")
        place = table
        for part in ["options", *path[1:]] if path[:1] == ["model"] else path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {text}: contradicts another --set of {part}")
        try:
            place[last] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            place[last] = value
    return table


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern is of a parameter (``conv1.w``; in a network in parts ``conv1.tower0.w``), of its layer, or of
    what is around that."""
    layer, array = name.partition(".")[0], name.rpartition(".")[2]
    return any(fnmatchcase(known, pattern) for known in (*outwards(name), f"{layer}.{array}"))


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a table, those of tables in it as ``outer.inner``: as TOML reads names with dots."""
    entries = {}
    for name, value in table.items():
        inner = _flat(value) if isinstance(value, Mapping) else None
        entries.update({name: value} if inner is None else {f"{name}.{key}": v for key, v in inner.items()})
    return entries


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, for JSON and TOML; ``change(Recipe(), plain(recipe), ...)`` gives it back."""
    return {name: value for name, value in asdict(recipe).items() if value is not None}


def toml(table: Mapping[str, Any]) -> str:
    """A table of plain data as TOML, sub-tables last."""
    lines = _entries({key: value for key, value in table.items() if not (isinstance(value, Mapping) and value)})
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            nested = {k: v for k, v in value.items() if isinstance(v, Mapping)}
            if len(nested) < len(value) or not nested:
                lines += ["", f"[{_toml_key(key)}]", *_entries({k: v for k, v in value.items() if k not in nested})]
            for k, v in nested.items():
                lines += ["", f"[{_toml_key(key)}.{_toml_key(k)}]", *_entries(v)]
    return "\n".join(lines) + "\n"


def _entries(table: Mapping[str, Any]) -> list[str]:
    return [f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items()]


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(_entries(value)) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def checked(kind: type, table: Mapping[str, Any], where: str, beside: Sequence[str] = ()) -> dict[str, Any]:
    """The entries of a table as fields of a data class, converted to their types; RecipeError as of ``change``."""
    hints = get_type_hints(kind)
    own = [f.name for f in fields(kind)]
    values = {}
    for name, value in table.items():
        if name not in own:
            known = [*own, *beside]
            raise RecipeError(f"{where}: unknown entry {name}{nearest(name, known)} (entries: {', '.join(known)})")
        values[name] = _converted(hints[name], value, f"{where}: {name}")
    return values


def _converted(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind == Steps:
        pairs = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
            raise RecipeError(f"{where}: expected pairs [epoch, factor], got {value!r}")
        steps = tuple(tuple(_converted(float, number, where) for number in pair) for pair in pairs)
        if any(number < 0 for pair in steps for number in pair) or list(steps) != sorted(steps):
            raise RecipeError(f"{where}: expected pairs [epoch, factor] of numbers from 0 on in order, got {value!r}")
        return steps
    if kind == ClassWeights and value != BALANCED:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise RecipeError(f"{where}: expected {BALANCED} or a list of numbers, one a class, got {value!r}")
        weights = tuple(_converted(float, number, where) for number in value)
        if min(weights, default=1) <= 0:
            raise RecipeError(f"{where}: expected numbers above 0, got {min(weights)}")
        return weights
    if kind == ClassWeights:
        return value
    if kind == Scale and isinstance(value, Sequence) and not isinstance(value, str):
        factors = tuple(_converted(float, number, where) for number in value)
        if len(factors) != 3:
            raise RecipeError(f"{where}: expected a number, or three for RGB, got {len(factors)}")
        return factors
    if kind == Scale:
        return _converted(float, value, where)
    if kind == Patterns:
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, Sequence):
            raise RecipeError(f"{where}: expected a list of patterns, got {value!r}")
        return tuple(_converted(str, pattern, where) for pattern in patterns)
    if kind == Mapping[str, float] and isinstance(value, Mapping):
        return {name: _converted(float, factor, f"{where}.{name}") for name, factor in value.items()}
    expected = {float: "a number", int: "an integer", str: "a string", bool: "true or false"}
    plain_kind = bool if kind == bool | None else kind if kind in expected else Mapping
    right = isinstance(value, plain_kind) and (plain_kind is bool or not isinstance(value, bool))
    if not right or (kind is float and not math.isfinite(value)):
        raise RecipeError(f"{where}: expected {expected.get(plain_kind, 'a table')}, got {value!r}")
    return value


def _check(recipe: Recipe, where: str) -> None:
    for name, choices in CHOICES.items():
        if getattr(recipe, name) not in choices:
            got = getattr(recipe, name)
            raise RecipeError(f"{where}: {name}: expected {' or '.join(choices)}, got {got!r}{nearest(got, choices)}")
    for name in POSITIVE:
        if getattr(recipe, name) <= 0:
            raise RecipeError(f"{where}: {name}: expected a number above 0, got {getattr(recipe, name)}")
    if min(scales := recipe.scale if isinstance(recipe.scale, tuple) else (recipe.scale,)) <= 0:
        raise RecipeError(f"{where}: scale: expected a number above 0, got {min(scales)}")
    for name in NOT_NEGATIVE:
        if getattr(recipe, name) < 0:
            raise RecipeError(f"{where}: {name}: expected a number from 0 on, got {getattr(recipe, name)}")
    for name in FRACTIONS:
        if not 0 <= getattr(recipe, name) < 1:
            raise RecipeError(f"{where}: {name}: expected a number from 0 to below 1, got {getattr(recipe, name)}")
    if recipe.nesterov and (recipe.optimizer != "sgd" or not recipe.momentum):
        got = f"{recipe.optimizer} with {recipe.momentum:g}"
        raise RecipeError(f"{where}: nesterov: expected optimizer sgd with a momentum above 0, got {got}")
    if recipe.accumulate > recipe.batch:
        raise RecipeError(f"{where}: accumulate: expected at most the batch of {recipe.batch}, got {recipe.accumulate}")
    if bool(recipe.steps) != (recipe.schedule == "step"):
        raise RecipeError(f"{where}: steps and schedule = 'step' belong together, got {recipe.schedule!r}")
    if recipe.warmup >= recipe.epochs:
        raise RecipeError(f"{where}: warmup: expected less than epochs = {recipe.epochs}, got {recipe.warmup:g}")
    if recipe.crop_area > 1:
        raise RecipeError(f"{where}: crop_area: expected a share of the image, at most 1, got {recipe.crop_area:g}")
    if recipe.crop_area < 1 and not recipe.crop:
        raise RecipeError(f"{where}: crop_area: expected 1 where crop = false, got {recipe.crop_area:g}")
    if recipe.crop_aspect < 1:
        raise RecipeError(f"{where}: crop_aspect: expected a number from 1 on, got {recipe.crop_aspect:g}")
    if recipe.rotation > LARGEST_ROTATION:
        raise RecipeError(f"{where}: rotation: expected degrees from 0 to {LARGEST_ROTATION}, got {recipe.rotation:g}")
    if recipe.mixup and recipe.batch < 2:
        raise RecipeError(f"{where}: mixup: expected batches of two images or more, got {recipe.batch}")
    if recipe.stop_after and recipe.schedule == "plateau":
        raise RecipeError(
            f"{where}: stop_after: schedule = 'plateau' ends by patience and drops; expected another schedule"
        )
    for name, rule in recipe.layers.items():
        if min(rule.lr, rule.weight_lr, rule.bias_lr, rule.momentum, rule.bias_momentum, rule.decay) < 0:
            raise RecipeError(f"{where}: layers.{name}: expected factors from 0 on, got {rule}")
        if recipe.momentum * max(rule.momentum, rule.bias_momentum) >= 1:
            raise RecipeError(f"{where}: layers.{name}: expected a momentum below 1, got {rule}")
    try:
        model = recipe.described()
    except (models.OwnError, models.PrototxtError):
        raise
    except ValueError as e:
        raise RecipeError(f"{where}: {e}") from e
    weighted = list(dict.fromkeys(path for row in model.rows() if row.parameters for path in outwards(row.layer.name)))
    for name in recipe.layers:
        if name not in weighted:
            raise RecipeError(
                f"{where}: layers.{name}: {recipe.model} has no such layer with weights{nearest(name, weighted)}"
            )
    if 0 < recipe.stored < max(model.input[:2]):
        seen = max(model.input[:2])
        expected = f"at least the {seen} pixels that {recipe.model} sees"
        raise RecipeError(f"{where}: stored: expected {expected}, got {recipe.stored}")
    parameters = [row.named(array) for row in model.rows() for array in row.trained]
    for entry, patterns in (("freeze", recipe.freeze), ("rates", recipe.rates)):
        for pattern in patterns:
            if not any(_matches(pattern, name) for name in parameters):
                known = f"{', '.join(weighted)}; arrays: {parameters[0]}, ..."
                raise RecipeError(
                    f"{where}: {entry}: {pattern!r} matches no layer with weights of {recipe.model}, nor an array of "
                    f"one (layers: {known}){nearest(pattern, weighted)}"
                )
    for pattern, factor in recipe.rates.items():
        if factor < 0:
            raise RecipeError(f"{where}: rates: {pattern}: expected a factor from 0 on, got {factor}")
    if all(map(recipe.frozen, parameters)):
        raise RecipeError(f"{where}: freeze: nothing of {recipe.model} is left to train")
