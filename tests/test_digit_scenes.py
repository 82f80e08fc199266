"""The embedded data: reproducible, in their ranges, and no handwritten digit in two of their parts."""

import hashlib
import itertools

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfssl.data import digit_scenes as module
from tfssl.data.digit_scenes import GLYPHS, SETS, digit_scenes, scene
from tfssl.errors import UserError

PART = {"labeled": "training", "unlabeled": "training", "held_out": "training", "validation": "validation",
        "test": "test"}  # fmt: skip
LIMITS = {"training": (0, 1078), "validation": (1078, 1438), "test": (1438, 1797)}


def small(**changed):
    counts = {f"{name}_scenes": number for number, name in enumerate(SETS, 3)}
    return digit_scenes(**(counts | {"size": (48, 64)} | changed))


def examples(data):
    return {name: getattr(data, name) for name in SETS}


@pytest.fixture
def used(monkeypatch):
    """The positions in scikit-learn's digits of the glyphs that are drawn, as they are drawn."""
    place = {image.tobytes(): number for number, image in enumerate(load_digits().images / 16.0)}
    assert len(place) == 1797
    drawn, draw = [], module._glyph

    def spy(random, picture, size):
        drawn.append(place[picture.tobytes()])
        return draw(random, picture, size)

    monkeypatch.setattr(module, "_glyph", spy)
    return drawn


def test_the_three_parts_share_no_glyph():
    edges = sorted(GLYPHS.values())
    assert edges[0][0] == 0 and edges[-1][1] == 1
    for (_, end), (start, _) in itertools.pairwise(edges):
        assert end == start
    parts = {part: {image.tobytes() for image in module._glyphs(part)[0]} for part in GLYPHS}
    for one, other in itertools.combinations(parts.values(), 2):
        assert not one & other
    assert {part: len(glyphs) for part, glyphs in parts.items()} == {
        part: stop - start for part, (start, stop) in LIMITS.items()
    }


def test_each_set_draws_the_glyphs_of_its_part(used):
    data = small(**{f"{name}_scenes": 12 for name in SETS})
    for name, part in examples(data).items():
        used.clear()
        for index in range(12):
            part.image(index)
        start, stop = LIMITS[PART[name]]
        assert len(set(used)) > 40
        assert min(used) >= start and max(used) < stop
        assert max(used) - min(used) > 0.8 * (stop - start)  # and not of a corner of it


def test_a_label_names_the_digits_that_are_drawn(used):
    digits = load_digits().target
    for index in range(20):
        used.clear()
        _, label = scene("test", (0, 4, index), (48, 64))
        drawn = {int(digits[number]) + 1 for number in used}
        shown = set(np.unique(label).tolist()) - {0}
        assert shown <= drawn and len(shown) >= min(2, len(drawn))


def test_shapes_types_and_values():
    data = small()
    assert len(data.classes) == len(data.palette) == len(set(data.palette)) == 11
    seen = set()
    for (name, part), count in zip(examples(data).items(), itertools.count(3)):
        assert part.count == count and part.names[0] == f"{name}/00000" and len(set(part.names)) == count
        image = part.image(tf.constant(count - 1, tf.int64)).numpy()
        assert image.shape == (48, 64, 3) and image.dtype == np.float32
        assert image.min() >= 0 and image.max() <= 255 and (image == np.round(image)).all()
        if name == "unlabeled":
            assert part.label is None
            continue
        for index in range(count):
            label = part.label(index).numpy()
            assert label.shape == (48, 64) and label.dtype == np.int32
            assert 0.02 < (label > 0).mean() < 0.6
            seen |= set(np.unique(label).tolist())
    assert seen == set(range(11))


def test_digits_are_bright_and_the_background_is_dim():
    for index in range(6):
        image, label = scene("training", (0, 0, index), (96, 96))
        assert image[label > 0].mean() > image[label == 0].mean() + 60


def test_a_scene_is_a_function_of_its_numbers():
    first, second = small(), small()
    for (name, one), other in zip(examples(first).items(), examples(second).values(), strict=True):
        np.testing.assert_array_equal(one.image(1), other.image(1), err_msg=name)
        np.testing.assert_array_equal(one.image(1), one.image(1), err_msg=name)
        if one.label:
            np.testing.assert_array_equal(one.label(1), other.label(1), err_msg=name)
    more = small(labeled_scenes=50)
    np.testing.assert_array_equal(more.labeled.image(2), first.labeled.image(2))  # whatever the number of scenes


def test_sets_and_scenes_and_seeds_differ():
    data, reseeded = small(), small(scene_seed=1)
    images = [part.image(index).numpy().tobytes() for part in examples(data).values() for index in range(3)]
    images += [part.image(0).numpy().tobytes() for part in examples(reseeded).values()]
    assert len(set(images)) == len(images) == 20


def test_image_and_label_are_of_one_scene_inside_a_pipeline():
    part = small().validation
    stream = tf.data.Dataset.range(part.count).map(lambda index: (part.image(index), part.label(index)))
    assert stream.element_spec[0].shape == (48, 64, 3) and stream.element_spec[1].shape == (48, 64)
    for index, (image, label) in enumerate(stream):
        wanted_image, wanted_label = scene("validation", (0, 3, index), (48, 64))
        np.testing.assert_array_equal(image, wanted_image)
        np.testing.assert_array_equal(label, wanted_label)


def test_mirroring_is_not_allowed():
    assert small().flips is False


def test_the_generator_has_not_changed():
    """Scores are of these very scenes: whoever changes the generator makes new data, and must say so."""
    _, label = scene("training", (0, SETS.index("labeled"), 0), (96, 96))
    counts = np.bincount(label.ravel(), minlength=11).tolist()
    assert counts == [8099, 0, 0, 274, 0, 0, 593, 0, 250, 0, 0]
    checksum = hashlib.sha256(label.astype("<i4").tobytes()).hexdigest()
    assert checksum == "9fda635fd9af98b925b2538273b99d03670d4d27b724d96f9b2ac7325605859c"


@pytest.mark.parametrize("size", [(96, 24), (3, 3)])
def test_a_size_that_digits_do_not_fit_into(size):
    with pytest.raises(UserError, match="data.size"):
        digit_scenes(size=size)


@pytest.mark.parametrize("size", [(32, 32), (96, 48), (32, 120)])
def test_the_smallest_and_narrowest_sizes(size):
    for index in range(30):
        image, label = scene("training", (1, 0, index), size)
        assert image.shape == (*size, 3) and label.shape == size and label.any()
