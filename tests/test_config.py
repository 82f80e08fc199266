"""The configuration file: what is accepted, and that each mistake is told with its place and what to do."""

import inspect
import json

import pytest

from tfssl import config
from tfssl.data.sources import SOURCES
from tfssl.errors import UserError
from tfssl.methods import METHODS
from tfssl.networks import NETWORKS

METHOD = {"method": {"name": "supervised"}}


def complaint(content):
    with pytest.raises(UserError) as caught:
        config.parse(content, "my.json")
    message = str(caught.value)
    assert message.startswith("my.json: ") and "\n" not in message
    return message.removeprefix("my.json: ")


def test_only_the_method_must_be_named():
    settings = config.parse(METHOD, "my.json")
    assert settings.method.name == "supervised" and settings.seed == 0
    assert settings.data.source == "digit_scenes" and settings.task.ignore_index == 255
    assert settings.training.strategy == "default" and settings.training.xla == "auto"
    assert config.parse(settings.model_dump(), "again.json") == settings
    assert config.parse(json.loads(settings.model_dump_json()), "again.json") == settings
    assert complaint({}) == "method: is missing"


def test_defaults_are_not_shared_between_configurations():
    first, second = config.parse(METHOD, "a.json"), config.parse(METHOD, "b.json")
    first.training.steps = 7
    first.data.weak.scale = (1.0, 1.0)
    assert second.training.steps != 7 and second.data.weak.scale != (1.0, 1.0)
    assert config.parse(METHOD, "c.json") == second


@pytest.mark.parametrize(
    "extra, wanted",
    [
        ({"trainig": {}}, "trainig: unknown key; did you mean 'training'?"),
        ({"training": {"stpes": 1}}, "training.stpes: unknown key; did you mean 'steps'?"),
        ({"training": {"label_batch": 1}}, "training.label_batch: unknown key; did you mean 'labeled_batch'?"),
        ({"data": {"weak": {"scales": [1, 1]}}}, "data.weak.scales: unknown key; did you mean 'scale'?"),
        ({"data": {"strong": {"color": 1}}}, "data.strong.color: unknown key; known: operations, magnitude, blur,"),
        ({"evaluation": {"qqq": 1}}, "evaluation.qqq: unknown key; known: protocol, crop"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(extra, wanted):
    assert complaint(METHOD | extra).startswith(wanted)


@pytest.mark.parametrize(
    "extra, place, given",
    [
        ({"training": {"steps": "many"}}, "training.steps", '"many"'),
        ({"training": {"steps": 2.5}}, "training.steps", "2.5"),
        ({"training": {"steps": 0}}, "training.steps", "0"),
        ({"training": {"learning_rate": -0.1}}, "training.learning_rate", "-0.1"),
        ({"training": {"optimizer": "sgdd"}}, "training.optimizer", '"sgdd"'),
        ({"training": 3}, "training", "3"),
        ({"data": {"crop": [96, -1]}}, "data.crop.1", "-1"),
        ({"data": {"weak": {"flip": "perhaps"}}}, "data.weak.flip", '"perhaps"'),
        ({"data": {"strong": {"blur": 1.5}}}, "data.strong.blur", "1.5"),
        ({"networks": {"name": "deeplab_v3_plus"}}, "networks", '{"name": "deeplab_v3_plus"}'),
        ({"task": {"palette": [[0, 0, "red"]]}}, "task.palette.0.2", '"red"'),
        ({"method": "supervised"}, "method", '"supervised"'),
    ],
)
def test_a_wrong_value_is_named_with_its_place(extra, place, given):
    message = complaint(METHOD | extra)
    assert message.startswith(f"{place}: ") and message.endswith(f"but it is {given}")


def test_what_is_missing_is_named():
    assert complaint(METHOD | {"networks": [{"backbone": "x"}]}) == "networks.0.name: is missing"
    assert complaint(METHOD | {"data": {"crop": [96]}}) == "data.crop.1: is missing"


def test_one_of_several_types_is_no_place_in_the_file():
    """Both `bool` and "auto" are allowed, so pydantic's place has one part more: training.xla.bool."""
    assert complaint(METHOD | {"training": {"xla": "fast"}}).startswith("training.xla: ")


@pytest.mark.parametrize("seed", [-1, 5_000_000])
def test_a_seed_that_keras_would_refuse(seed):
    """keras.utils.set_random_seed takes 0..2**32 - 1, and a network's seed is 1000 * seed and a little."""
    assert complaint(METHOD | {"seed": seed}).startswith("seed: ")


def write(folder, text):
    path = folder / "my.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_load(tmp_path):
    path = write(tmp_path, json.dumps(METHOD | {"about": "ü", "training": {"steps": 30}}))
    settings = config.load(path, ["training.steps=40", "method.name=cutmix"])
    assert (settings.training.steps, settings.method.name, settings.about) == (
        40, "cutmix", "ü Changed: training.steps=40; method.name=cutmix."
    )  # fmt: skip
    assert (config.load(path).training.steps, config.load(path).about) == (30, "ü")
    assert config.load(path, ["about=other"]).about == "other"
    assert config.load(write(tmp_path, json.dumps(METHOD)), ["seed=1"]).about == ""


@pytest.mark.parametrize(
    "text, wanted",
    [
        ('{"seed": 1,\n "about": }', ", line 2: not valid JSON"),
        ("[1, 2]", ": must hold a JSON object"),
        ("", ", line 1: not valid JSON"),
        (b'{"about": "\xff"}', ": cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, wanted):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}{wanted}")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert config.load(write(tmp_path, b"\xef\xbb\xbf" + json.dumps(METHOD).encode())).method.name == "supervised"


def test_an_item_of_a_list_that_the_file_leaves_out(tmp_path):
    """Over the default list, as any other value that the file leaves out."""
    settings = config.load(write(tmp_path, json.dumps(METHOD)), ["networks.0.dropout=0.1"])
    (network,) = settings.networks
    assert network.name == "deeplab_v3_plus" and network.model_extra == {"dropout": 0.1}
    assert config.load(write(tmp_path, json.dumps(METHOD))).networks[0].model_extra == {}


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="none.json: no such file"):
        config.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a=1", {"a": 1}),
        ("b.c=2.5", {"b": {"c": 2.5, "d": [1, {"e": 2}]}}),
        ("b.d.0=null", {"b": {"c": 1, "d": [None, {"e": 2}]}}),
        ("b.d.1.e=[3, 4]", {"b": {"c": 1, "d": [1, {"e": [3, 4]}]}}),
        ("b.new.deep=true", {"b": {"c": 1, "d": [1, {"e": 2}], "new": {"deep": True}}}),
        ("a=plain text", {"a": "plain text"}),
        ('a="1"', {"a": "1"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
        ('a={"f": 1}', {"a": {"f": 1}}),
    ],
)
def test_override(text, wanted):
    before = {"b": {"c": 1, "d": [1, {"e": 2}]}}
    assert config.override(json.loads(json.dumps(before)), [text]) == before | wanted


def test_later_overrides_lie_over_earlier_ones():
    assert config.override({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("text", ["a.b.c=1", "d.5=1", "d.x=1", "d.1.e.f=1", "n.x=1", "d.0.x=1"])
def test_a_place_that_is_not_there(text):
    content = {"a": {"b": 1}, "d": [1, {"e": "text"}], "n": None}
    place = text.split("=")[0]
    with pytest.raises(UserError) as caught:
        config.override(content, [text])
    assert str(caught.value) == f"--set {text}: there is no place {place} in the configuration"


@pytest.mark.parametrize("text", ["a", "=1", "", "a.b"])
def test_an_override_without_place_or_value(text):
    with pytest.raises(UserError, match="write it as a.b.c=VALUE"):
        config.override({"a": {}}, [text])


def example(positional, *, rate: float, count: int = 3, names: list[str] | None = None, elsewhere: int = 0, **rest):
    """A function that a section of the file could name."""


def test_signature_model_has_the_keyword_only_parameters_with_their_defaults():
    fields = config.signature_model(example, skip=("elsewhere",)).model_fields
    assert list(fields) == ["rate", "count", "names"]
    assert fields["rate"].is_required() and fields["count"].default == 3 and fields["names"].default is None
    assert "elsewhere" in config.signature_model(example).model_fields


def test_arguments_are_validated_and_filled_in():
    given = config.arguments(example, {"rate": 1, "names": ["x"]}, "here", skip=("elsewhere",))
    assert given == {"rate": 1.0, "count": 3, "names": ["x"]} and isinstance(given["rate"], float)


@pytest.mark.parametrize(
    "section, wanted",
    [
        ({}, "here.rate: is missing"),
        ({"rate": 1, "cuont": 2}, "here.cuont: unknown key; did you mean 'count'?"),
        ({"rate": 1, "elsewhere": 2}, "here.elsewhere: unknown key; known: rate, count, names"),
        ({"rate": 1, "positional": 2}, "here.positional: unknown key; known: rate, count, names"),
        ({"rate": "fast"}, "here.rate: input should be a valid number"),
        ({"rate": 1, "names": ["x", 3]}, "here.names.1: input should be a valid string"),
    ],
)
def test_arguments_that_are_wrong(section, wanted):
    with pytest.raises(UserError) as caught:
        config.arguments(example, section, "here", skip=("elsewhere",))
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize("function", [*SOURCES.values(), *NETWORKS.values(), *METHODS.values()])
def test_whatever_a_file_may_name_has_arguments_with_types_and_valid_defaults(function):
    function = function.__init__ if inspect.isclass(function) else function
    model = config.signature_model(function)
    filled = {}
    for name, field in model.model_fields.items():
        assert field.annotation not in (inspect.Parameter.empty, None), name
        if not field.is_required():
            filled[name] = field.default
    for name, value in filled.items():
        validator = model.__pydantic_validator__
        assert getattr(validator.validate_assignment(model.model_construct(), name, value), name) == value


def test_choose_names_the_nearest():
    table = {"robust_mutual": 1, "cutmix": 2}
    assert config.choose(table, "cutmix", "method.name") == 2
    with pytest.raises(UserError, match="method.name: unknown name 'cutmx'; did you mean 'cutmix'?"):
        config.choose(table, "cutmx", "method.name")
    with pytest.raises(UserError, match="known: robust_mutual, cutmix"):
        config.choose(table, "zzz", "method.name")
