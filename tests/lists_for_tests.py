"""Small data sets on disk with their split lists, for the tests that read or check them."""

import numpy as np
import pytest
from PIL import Image

from tfssl.data.palettes import default_palette
from tfssl.data.split_lists import split_lists
from tfssl.errors import UserError

CLASSES = ("sky", "road", "tree")
SIZES = {"a": (20, 30), "b": (24, 18), "c": (16, 16), "d": (21, 33)}  # height, width
LISTS = {"labeled": "ab", "unlabeled": "c", "validation": "d"}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def indices(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, len(CLASSES), (height, width), dtype=np.uint8)
    values[0, 0] = 255
    return values


def write_palette_png(path, values, **options):
    image = Image.fromarray(values)
    image = image.convert("P") if image.mode != "L" else Image.frombytes("P", image.size, values.tobytes())
    image.putpalette([channel for color in default_palette(256) for channel in color])
    image.save(path, **options)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFSSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Four images of four sizes: a JPEG, c and d PNG, b gray JPEG; labels as palette PNGs (b: gray PNG)."""
    root = tmp_path / "data"
    (root / "labels").mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items()):
        image = Image.fromarray(picture(*size, number))
        image = image.convert("L") if name == "b" else image
        image.save(root / image_name(name))
        if name == "b":
            Image.fromarray(indices(*size, number)).save(root / label_name(name))
        elif name != "c":
            write_palette_png(root / label_name(name), indices(*size, number))
    for list_name, names in LISTS.items():
        write_list(root, list_name, names)
    return root


def image_name(name):
    return f"{name}.jpg" if name in "ab" else f"{name}.png"


def label_name(name):
    return f"labels/{name}.png"


def write_list(root, list_name, names):
    (root / f"{list_name}.txt").write_text("".join(f"{image_name(name)} {label_name(name)}\n" for name in names))


def load(root, **changes):
    settings = {name: f"{name}.txt" for name in LISTS} | {"classes": CLASSES} | changes
    return split_lists(root=str(root), **settings)


def mistake(root, **changes):
    """The message and the details of the UserError that loading ends in."""
    with pytest.raises(UserError) as caught:
        load(root, **changes)
    return str(caught.value), list(caught.value.details)
