"""Every kind of bad file and of bad line in a list: all are named in one report before training, or these left out."""

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfssl
from tests.lists_for_tests import CLASSES
from tests.test_check import cut_short, make_bomb, replace_by_directory
from tfssl.data.split_lists import split_lists
from tfssl.errors import UserError

SIZE = (16, 20)


def image_name(number):
    return f"{number}.{'jpg' if number % 2 else 'png'}"


def label_name(number):
    return f"labels/{number}.png"


def write_data(root, count):
    """So many images with labels, all of them labeled, and three good ones to evaluate on."""
    (root / "labels").mkdir(parents=True)
    for number in range(count + 3):
        random = np.random.default_rng(number)
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(root / image_name(number))
        Image.fromarray(random.integers(0, 3, SIZE, np.uint8)).save(root / label_name(number))
    lines = [f"{image_name(number)} {label_name(number)}\n" for number in range(count + 3)]
    (root / "labeled.txt").write_text("".join(lines[:count]))
    (root / "validation.txt").write_text("".join(lines[count:]))
    return root


def load(root, **changes):
    lists = {"labeled": "labeled.txt", "validation": "validation.txt"}
    return split_lists(root=str(root), **lists | {"classes": CLASSES} | changes)


@pytest.fixture
def opened_up():
    """A folder that another user may read, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def save(values, kind="PNG", **options):
    return lambda path: Image.fromarray(values).save(path, kind, **options)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(np.zeros((*SIZE, 3), np.uint8), "JPEG", exif=exif)(path)


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.png")


GRAY, COLOUR = np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 3), np.uint8)
# what: (image or label, what is done to it, what is said of it)
KINDS = {
    "no bytes": ("image", lambda path: path.write_bytes(b""), "is empty"),
    "no bytes of a label": ("label", lambda path: path.write_bytes(b""), "is empty"),
    "a PNG cut short": ("png image", cut_short, "is corrupt or cut short"),
    "a JPEG cut short": ("jpg image", cut_short, "is corrupt or cut short"),
    "a label cut short": ("label", cut_short, "is corrupt or cut short"),
    "a text": ("image", lambda path: path.write_text("no picture"), "is neither a JPEG nor a PNG"),
    "a GIF named .png": ("png image", save(GRAY, "GIF"), "is neither a JPEG nor a PNG"),
    "a BMP named .png": ("png image", save(COLOUR, "BMP"), "is neither a JPEG nor a PNG"),
    "a WebP named .jpg": ("jpg image", save(COLOUR, "WEBP"), "is neither a JPEG nor a PNG"),
    "a GIF for a label": ("label", save(GRAY, "GIF"), "is not a PNG"),
    "a label of another size": ("label", save(np.zeros((16, 21), np.uint8)), "is 16 x 21 pixels, but its image"),
    "a value that is no class": ("label", save(np.full(SIZE, 3, np.uint8)), "has values 3; allowed are 0 to 2"),
    "a label of nothing": ("label", save(np.full(SIZE, 255, np.uint8)), "has no labeled pixel"),
    "a JPEG for a label": ("label", save(GRAY, "JPEG"), "is a JPEG, which changes class numbers"),
    "16 bits": ("png image", save(np.zeros(SIZE, np.uint16)), "has 16 bits a channel"),
    "a label of 16 bits": ("label", save(np.zeros(SIZE, np.uint16)), "is 16-bit gray"),
    "a picture to be turned": ("jpg image", turned, "is to be turned when shown (EXIF orientation 6)"),
    "a bomb": ("png image", make_bomb, "more than 64 million"),
    "a bomb for a label": ("label", make_bomb, "more than 64 million"),
    "a film": ("image", lambda path: os.truncate(path, 10**12), "has 1000000000000 bytes"),
    "a folder": ("image", replace_by_directory, "is not a file"),
    "a link to nothing": ("image", dangling, "does not exist"),
    "a label that is a link to nothing": ("label", dangling, "does not exist"),
    "a pipe": ("image", lambda path: (path.unlink(), os.mkfifo(path)), "is not a file"),
}  # fmt: skip


def spoil(root):
    """Of a data set one file in every way: {name: what is said of it}."""
    said, number = {}, 0
    for role, change, problem in KINDS.values():
        number += 1  # every second is good
        if role in ("png image", "jpg image") and (number % 2 == 1) != role.startswith("jpg"):
            number += 1
        name = label_name(number) if role == "label" else image_name(number)
        change(root / name)
        said[name] = problem
        number += 1
    return said


def test_every_kind_is_named_in_one_report(tmp_path, capsys):
    """By default before anything is trained; else exactly these are left out, and told."""
    root = write_data(tmp_path / "data", 3 * len(KINDS))
    said = spoil(root)
    assert len(said) == len(KINDS) == 24
    with pytest.raises(UserError, match=f"^{len(KINDS)} bad file.s. under data.root .*, named above; mend them, or set "
                       'data.on_bad_file to "skip"$') as caught:  # fmt: skip
        load(root)
    details = dict(line.split(": ", 1) for line in caught.value.details)
    assert details.keys() == said.keys()
    for name, problem in said.items():
        assert problem in details[name] and details[name].endswith("[data.labeled]"), name
    source = load(root, on_bad_file="skip")
    numbers = {int(Path(name).stem) for name in said}
    assert {int(Path(name).stem) for name in source.labeled.names} == set(range(3 * len(KINDS))) - numbers
    assert source.validation.count == 3
    assert set(said) < set(source.left_out) and len(source.left_out) == 2 * len(KINDS)
    *lines, last = capsys.readouterr().err.splitlines()
    assert sorted(line.strip().split(": ")[0] for line in lines) == sorted(said)
    assert last == f"warning: {len(KINDS)} of {3 * len(KINDS)} examples of data.labeled left out"


def test_a_file_that_may_not_be_read(opened_up):
    """As a user with no rights to it: the superuser has all."""
    root = write_data(opened_up / "data", 2)
    os.chmod(root / image_name(1), 0)
    before = os.geteuid()
    try:
        os.seteuid(before or 65534)
        with pytest.raises(UserError, match="^1 bad file.s.") as caught:
            load(root)
        assert caught.value.details == ("1.jpg: cannot be read (Permission denied) [data.labeled]",)
        assert load(root, on_bad_file="skip").labeled.names == ("0.png",)
    finally:
        os.seteuid(before)


# Lists

# what: (the line, what is said of it; None: it is right)
LINES = {
    "above the root": ("../outside.png labels/0.png", "../outside.png leads outside of data.root"),
    "above the root and back": ("../data/0.png labels/0.png", None),
    "up and down within": ("labels/../0.png labels/0.png", None),
    "a label above the root": ("0.png ../outside.png", "../outside.png leads outside of data.root"),
    "many times up": ("../../../../../../../etc/passwd labels/0.png", "leads outside of data.root"),
    "in full, within the root": ("{root}/0.png {root}/labels/0.png", None),
    "in full, elsewhere": ("{root}/../outside.png labels/0.png", "leads outside of data.root"),
    "as if the root were the disk's": ("/0.png /labels/0.png", None),
    "a system's file in full": ("/etc/passwd labels/0.png", "etc/: no such folder"),
    "a link within": ("inner.png labels/0.png", None),
    "a link to elsewhere": ("link.png labels/0.png", "link.png leads outside of data.root by a symbolic link"),
    "through a linked folder": ("away/outside.png labels/0.png", "leads outside of data.root by a symbolic link"),
    "a zero byte": ("0\0.png labels/0.png", "expected IMAGE LABEL"),
    "three names": ("0.png labels/0.png 1.jpg", "expected IMAGE LABEL"),
    "no label": ("0.png", "expected IMAGE LABEL"),
    "twice": ("0.png labels/0.png\n0.png labels/0.png", None),
    "trained and evaluated on": ("2.png labels/2.png", "2.png: in data.labeled and data.validation"),
    "trained and evaluated on, by a link": ("alias.png labels/2.png", "2.png: in data.labeled and data.validation"),
    "trained and evaluated on, in full": ("{root}/./2.png labels/2.png", "2.png: in data.labeled and data.validation"),
}  # fmt: skip


@pytest.mark.parametrize("on_bad_file", ["fail", "skip"])
@pytest.mark.parametrize("name", LINES)
def test_lines_of_lists(tmp_path, capsys, name, on_bad_file):
    """None of the mistakes in a list is a bad file that could be left out: they are refused by both policies."""
    root = write_data(tmp_path / "data", 2)
    Image.fromarray(COLOUR).save(tmp_path / "outside.png")
    for link, place in (("link.png", tmp_path / "outside.png"), ("inner.png", root / "0.png"),
                        ("alias.png", root / "2.png"), ("away", tmp_path)):  # fmt: skip
        (root / link).symlink_to(place)
    line, says = LINES[name]
    (root / "labeled.txt").write_text(f"1.jpg labels/1.png\n{line.format(root=root)}\n")
    if says is None:
        assert load(root, on_bad_file=on_bad_file).labeled.count == 2 + ("\n" in line)
        assert ("names more than once: 0.png" in capsys.readouterr().err) == (name == "twice")
    elif "no such" in says and on_bad_file == "skip":
        assert load(root, on_bad_file=on_bad_file).labeled.count == 1 and says in capsys.readouterr().err
    else:
        with pytest.raises(UserError) as caught:
            load(root, on_bad_file=on_bad_file)
        assert len(caught.value.details) == 1 and says in caught.value.details[0]


# Bombs

BOMBS = """
import io, os, resource, struct, sys, zlib
import numpy as np, tensorflow as tf
from PIL import Image
from tfssl.data.files import inspect
from tfssl.data.reading import File

def png(width, height, colour=0, depth=8):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    packer, rows = zlib.compressobj(9), []
    for _ in range(height):
        rows.append(packer.compress(bytes(1 + width * {0: 1, 2: 3, 3: 1}[colour])))
    rows.append(packer.flush())
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    return (b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
            + palette + chunk(b"IDAT", b"".join(rows)) + chunk(b"IEND", b""))

def jpeg(width, height):
    contents = io.BytesIO()
    Image.new("RGB", (16, 16)).save(contents, "JPEG")
    contents = bytearray(contents.getvalue())
    place = contents.index(b"\\xff\\xc0") + 5
    contents[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(contents)

def scans(count):
    contents = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(contents, "JPEG", progressive=True)
    contents = contents.getvalue()
    first = contents.rindex(b"\\xff\\xda")
    return contents[:first] + contents[first:-2] * count + contents[-2:]

def gif(width, height):
    contents = io.BytesIO()
    Image.new("P", (16, 16)).save(contents, "GIF")
    contents = bytearray(contents.getvalue())
    contents[6:10] = struct.pack("<HH", width, height)
    place = contents.rindex(b"\\x2c" + bytes(4))
    contents[place + 5 : place + 9] = struct.pack("<HH", width, height)
    return bytes(contents)

small = io.BytesIO()
Image.new("RGB", (64, 64)).save(small, "PNG")
bombs = {"gray.png": png(20_000, 20_000), "colour.png": png(9_000, 9_000, 2), "palette.png": png(9_000, 9_000, 3),
         "huge.jpg": jpeg(65_500, 65_500), "gif.png": gif(32_000, 32_000), "scans.jpg": scans(120)}
for name, contents in bombs.items():
    open(name, "wb").write(contents)
assert inspect(small.getvalue(), "image").problem is None  # the decoders are loaded, a buffer is there
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
for name, contents in bombs.items():
    for role in ("image", "label"):
        print(f"{name} {role}: {inspect(contents, role).problem}")
        File(name, name, role, 100, "", 1).read()[1] or sys.exit("was read")
print(f"growth {peak() - before:.1f}")
"""


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    """In a process of its own, whose greatest memory tells; nothing is decoded in any of the two places that read."""
    environment = {**os.environ, "PYTHONPATH": str(Path(tfssl.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(BOMBS)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *said, growth = done.stdout.splitlines()
    wanted = {"gray.png image": "20000 x 20000 pixels, more than 64 million", "png image": "9000 x 9000",
              "huge.jpg image": "65500 x 65500 pixels, more",
              "gif.png image": "neither a JPEG nor a PNG", "scans.jpg image": "more than 100 scans",
              "gif.png label": "is not a PNG", "jpg label": "is a JPEG", "colour.png label": "is a colour picture",
              "gray.png label": "20000 x 20000 pixels", "png label": "9000 x 9000"}  # fmt: skip
    for line in said:
        key = next(key for key in [*sorted(wanted, key=len, reverse=True)] if line.split(":")[0].endswith(key))
        assert wanted[key] in line, line
    assert len(said) == 12 and float(growth.split()[1]) < 64, growth
