"""The JSON file as typed, validated settings. An unknown key is an error that names the nearest known one.

The sections `data`, each of `networks` and `method` take, beside the keys listed here, the keyword arguments of the
function or class they name: its signature is the one place that says what they are called and what they default to.
"""

import contextlib
import difflib
import inspect
import json
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from tfssl.errors import UserError
from tfssl.kinds import Share

LAST_SEED = 1_000_000  # 1000 times it must be a seed of Keras too


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class OpenSection(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Weak(Section):
    """The weak view's geometry. Null is as the source says: scale [0.5, 1.5], or [1, 1] where an image of another size
    would be another; flip only where a mirrored image means the same."""

    scale: tuple[pydantic.PositiveFloat, pydantic.PositiveFloat] | None = None
    flip: bool | None = None
    rotation: pydantic.NonNegativeFloat = 0.0
    translation: pydantic.NonNegativeFloat = 0.0

    @pydantic.field_validator("scale")
    @classmethod
    def rising(cls, scale):
        if scale and scale[0] > scale[1]:
            raise ValueError("give the smaller scale first")
        return scale


class Strong(Section):
    operations: pydantic.NonNegativeInt = 2
    magnitude: Share = 1.0
    blur: Share = 0.5
    grayscale: Share = 0.2


class Data(OpenSection):
    """labeled_view: what training sees of labeled images, teachers and what is pasted included: "weak" views, or such
    whose colours change as those of strong views do."""

    source: str = "digit_scenes"
    crop: tuple[pydantic.PositiveInt, pydantic.PositiveInt] = (96, 96)
    weak: Weak = Weak()
    strong: Strong = Strong()
    labeled_view: Literal["weak", "strong"] = "weak"


Byte = Annotated[int, pydantic.Field(ge=0, le=255)]


class Task(Section):
    name: Literal["segmentation", "regression"] = "segmentation"
    classes: list[str] | None = None
    palette: list[tuple[Byte, Byte, Byte]] | None = None
    ignore_index: Byte = 255
    ohem: Share | None = None
    balance: Share = 0.0
    shares: list[Share] | None = None


class Named(OpenSection):
    name: str


class Training(Section):
    """epochs: passes over the unlabeled images, or the labeled ones of a method that has no use for others; where it is
    given it decides `steps`. on_non_finite: a step with a loss or gradient that is no finite number moves nothing; the
    run stops there, or goes on with the next one."""

    steps: pydantic.PositiveInt = 1000
    epochs: pydantic.PositiveFloat | None = None
    labeled_batch: pydantic.PositiveInt = 4
    unlabeled_batch: pydantic.PositiveInt = 4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: pydantic.PositiveFloat = 0.02
    head_factor: pydantic.PositiveFloat = 1.0
    weight_decay: pydantic.NonNegativeFloat = 1e-4
    learning_rate_warm_up: pydantic.NonNegativeInt = 0
    checkpoint_every: pydantic.PositiveInt = 200
    evaluate_every: pydantic.PositiveInt = 500
    log_every: pydantic.PositiveInt = 20
    strategy: Literal["default", "one", "mirrored", "multi_worker", "tpu"] = "default"
    xla: bool | Literal["auto"] = "auto"
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    accumulate: pydantic.PositiveInt = 1
    on_non_finite: Literal["stop", "skip"] = "stop"


class Evaluation(Section):
    """How networks are scored, see protocols.py. crop: of center_crop and sliding; short_side: of short_side."""

    protocol: Literal["whole", "center_crop", "short_side", "sliding"] = "whole"
    crop: tuple[pydantic.PositiveInt, pydantic.PositiveInt] | None = None
    short_side: pydantic.PositiveInt | None = None
    overlap: Annotated[float, pydantic.Field(ge=0, lt=1)] = 1 / 3
    scales: Annotated[list[pydantic.PositiveFloat], pydantic.Field(min_length=1)] = [1.0]
    flip: bool = False
    network: str | None = None
    select: Literal["held_out"] | None = None
    pictures: pydantic.NonNegativeInt = 8

    @pydantic.model_validator(mode="after")
    def complete(self):
        needed = {"center_crop": "crop", "sliding": "crop", "short_side": "short_side"}.get(self.protocol)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"protocol {self.protocol} needs {needed}")
        return self


class Export(Section):
    """sliding: the SavedModel looks through windows of evaluation.crop with evaluation.overlap. flip: at the mirrored
    image too. most_pixels: larger images are refused. reduced_precision: try a variant in 8 bits, and say what came of
    it."""

    saved_model: bool = True
    onnx: bool = True
    sliding: bool = False
    flip: bool = False
    most_pixels: pydantic.PositiveInt = 25_000_000
    reduced_precision: bool = True


class Config(Section):
    about: str = ""
    seed: Annotated[int, pydantic.Field(ge=0, le=LAST_SEED)] = 0
    deterministic: bool = False
    data: Data = Data()
    task: Task = Task()
    networks: list[Named] = [Named(name="deeplab_v3_plus")]
    method: Named
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    export: Export = Export()

    @pydantic.model_validator(mode="after")
    def windows(self):
        if self.export.sliding and self.evaluation.crop is None:
            raise ValueError("export.sliding needs evaluation.crop, the size of a window")
        return self


def load(path, overrides=()):
    """The settings of a JSON file with `a.b.c=JSON` overrides laid over it, which its `about` then tells."""
    content = read_json(path)
    if overrides and content.get("about"):
        content["about"] = f"{content['about']} Changed: {'; '.join(overrides)}."
    return parse(override(content, overrides), path)


def read_json(path):
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists without end
        raise UserError(f"{path}: cannot be read as JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object {{...}}")
    return content


def override(content, overrides):
    """`content` with each "a.b.c=JSON" set; a value that is not JSON is taken as text; list items go by number."""
    for text in overrides:
        place, equals, value = text.partition("=")
        if not equals or not place:
            raise UserError(f"--set {text}: write it as a.b.c=VALUE")
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
        *path, last = place.split(".")
        if path and path[0] not in content and isinstance(known := _default(path[0]), list):
            content[path[0]] = known  # an item of a list can be set only where there is a list
        inside = content
        try:
            for key in path:
                inside = inside[int(key)] if isinstance(inside, list) else inside.setdefault(key, {})
            inside[int(last) if isinstance(inside, list) else last] = value
        except (ValueError, IndexError, TypeError, AttributeError):
            raise UserError(f"--set {text}: there is no place {place} in the configuration") from None
    return content


def _default(section):
    """The default of a section as JSON; None where there is no such section."""
    return Config.model_construct().model_dump(mode="json", include={section}).get(section)


def parse(content, path):
    try:
        return Config.model_validate(content)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {_explain(error, Config)}") from None


def arguments(function, section, place, skip=()):
    """The keyword arguments that a section of the file gives to `function`, validated, with defaults filled in.

    function: what the section names; its annotated keyword-only parameters are the known keys. section: a dict of
    what the user wrote. skip: parameters that come from elsewhere.
    """
    model = signature_model(function, skip)
    try:
        return dict(model.model_validate(section))
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, model, place)) from None


def signature_model(function, skip=()):
    fields = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in skip:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (parameter.annotation, default)
    return pydantic.create_model("Arguments", __config__={"extra": "forbid", "arbitrary_types_allowed": True}, **fields)


def choose(table, name, place):
    """The entry of an explicit table by its name in the file."""
    if name not in table:
        raise UserError(f"{place}: unknown name {name!r}{_nearest(name, table)}")
    return table[name]


def _nearest(name, known):
    close = difflib.get_close_matches(str(name), list(known), 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _explain(error, model, place=""):
    """The first of pydantic's complaints as one sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if str(part).isidentifier() or str(part).isdecimal()]
    if first["type"] in ("bool_parsing", "literal_error", "none_required") and len(path) > 1 and path[-1] == "bool":
        path.pop()  # one of several types a value may have is no place in the file
    name = ".".join(filter(None, [place, *path]))
    if first["type"] == "extra_forbidden":
        return f"{name}: unknown key{_nearest(path[-1], _keys(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{name}: is missing"
    said = first["msg"].removeprefix("Value error, ")  # of a rule of our own
    return f"{name}: {said[0].lower()}{said[1:]}, but it is {json.dumps(first['input'], default=str)}"


def _keys(model, path):
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel)):
            break
        model = annotation
    return model.model_fields
