"""Files that become bad after the check: passed over by a rule, counted, told once; or the run must stop."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.lists_for_tests import CLASSES
from tests.test_check import make_bomb
from tests.test_streams import batches, numbers
from tfssl.data.denoising import denoising
from tfssl.data.image_folder import image_folder
from tfssl.data.split_lists import split_lists
from tfssl.data.streams import paired_stream
from tfssl.errors import UserError

SIDE, LABELED, UNLABELED = 8, 9, 7  # example n is an image full of n, the label of class n % 3
STEPS = 14


@pytest.fixture
def root(tmp_path):
    """Nine labeled images, then seven unlabeled and two of validation, whose pixels tell their number."""
    root = tmp_path / "data"
    (root / "labels").mkdir(parents=True)
    for number in range(LABELED + UNLABELED + 2):
        write(root, number)
    for name, first, count in (("labeled", 0, LABELED), ("unlabeled", LABELED, UNLABELED), ("validation", 16, 2)):
        (root / f"{name}.txt").write_text("".join(f"{n}.png labels/{n}.png\n" for n in range(first, first + count)))
    return root


def write(root, number):
    Image.fromarray(np.full((SIDE, SIDE, 3), number, np.uint8)).save(root / f"{number}.png")
    Image.fromarray(np.full((SIDE, SIDE), number % 3, np.uint8)).save(root / f"labels/{number}.png")


def load(root, on_bad_file="skip", **changes):
    lists = {name: f"{name}.txt" for name in ("labeled", "unlabeled", "validation")}
    return split_lists(root=str(root), **lists, classes=CLASSES, on_bad_file=on_bad_file, **changes)


def drawn(source, start=0, stop=STEPS):
    """The numbers of the images of each batch: (labeled, unlabeled), int [batches, 2]."""
    found = batches(source, start, stop)
    for batch in found:  # a label is that of its image
        image, label = batch["labeled"]
        np.testing.assert_array_equal(label[:, 0, 0], image[:, 0, 0, 0] % 3)
    return numbers(found, "labeled"), numbers(found, "unlabeled")


def other_pixel(path):
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 1 - pixels[0, 0] % 2
    Image.fromarray(pixels).save(path)


def same_size_same_time(path):
    """As a disk does it that rots: one bit, and nothing else tells of it."""
    status, contents = path.stat(), bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(make):
    def spoil(path):
        path.unlink()
        make(path)

    return spoil


FAULTS = {  # how a file becomes bad: what is said of it
    "vanished": (Path.unlink, "is not there any more"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "is corrupt or cut short"),
    "rotten": (same_size_same_time, "is corrupt or cut short"),
    "another picture": (other_pixel, "is not what it was when it was checked"),
    "text": (lambda path: path.write_text("hello"), "is n"),  # "either a JPEG nor a PNG", or "ot a PNG"
    "a folder": (replaced(Path.mkdir), "is not a file any more"),
    "a link to nothing": (replaced(lambda path: path.symlink_to("nowhere")), "is not there any more"),
    "a pipe": (replaced(lambda path: path.symlink_to("/dev/null")), "is not a file any more"),
    "a bomb": (make_bomb, "more than 64 million"),
    "a film": (lambda path: os.truncate(path, 10**12), "1000000000000 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_becomes_bad_is_passed_over_and_told_once(root, tmp_path, capsys, fault):
    spoil, says = FAULTS[fault]
    source = load(root)
    source.faults.begin(tmp_path)
    spoil(root / "3.png")
    spoil(root / "labels/5.png")
    labeled, unlabeled = drawn(source)
    assert not {3, 5} & set(labeled.ravel()) and set(unlabeled.ravel()) == set(range(LABELED, LABELED + UNLABELED))
    assert set(labeled.ravel()) == set(range(LABELED)) - {3, 5}
    rows = list(csv.DictReader((tmp_path / "bad_files.csv").open()))
    assert sorted(row["file"] for row in rows) == ["3.png", "labels/5.png"]
    told = capsys.readouterr().err
    for row in rows:
        assert says in row["problem"] and 1 <= int(row["step"]) <= STEPS
        assert told.count(f"step {row['step']}: {row['file']} {row['problem']}; passed over") == 1
    assert told.count("warning") == 2 and "2 of 10 that data.bad_files_limit allows" in told
    assert source.labeled.usable() == list(range(LABELED))  # as of step 0
    source.faults.step = STEPS
    assert source.labeled.usable() == [0, 1, 2, 4, 6, 7, 8]


def test_all_else_is_as_without_the_fault(root):
    """Only the places of the bad examples are others, no batch holds an example twice, replacements are spread."""
    whole, whole_unlabeled = drawn(load(root))
    source = load(root)
    for number in (3, 5, 12):
        (root / f"{number}.png").unlink()
    labeled, unlabeled = drawn(source)
    for before, after, bad in ((whole, labeled, [3, 5]), (whole_unlabeled, unlabeled, [12])):
        gone = np.isin(before, bad)
        assert gone.sum() >= 2
        np.testing.assert_array_equal(before[~gone], after[~gone])
        assert not np.isin(after, bad).any()
        assert (after[:, 0] != after[:, 1]).all()
    assert len(set(labeled[np.isin(whole, [3, 5])])) > 1


def test_a_batch_is_a_function_of_seed_number_and_bad_files(root, tmp_path):
    """Continued, and after the files were brought back: what was bad from a step on stays so, and was not before it."""
    source = load(root)
    source.faults.begin(tmp_path)
    first = drawn(source, 0, 5)
    (root / "3.png").unlink()
    (root / "10.png").unlink()
    then = drawn(source, 5, STEPS)
    assert {row["file"] for row in csv.DictReader((tmp_path / "bad_files.csv").open())} == {"3.png", "10.png"}
    write(root, 3)
    write(root, 10)
    again = load(root)
    again.faults.begin(tmp_path, 4)
    for before, after, continued in zip(first, then, drawn(again, 4, STEPS), strict=True):
        np.testing.assert_array_equal(np.concatenate([before[4:], after]), continued)
    whole = [np.concatenate(parts) for parts in zip(first, then, strict=True)]
    assert any(not np.array_equal(one, other) for one, other in zip(whole, drawn(load(root)), strict=True))


def test_by_default_nothing_is_passed_over(root, tmp_path, capsys):
    source = load(root, "fail")
    source.faults.begin(tmp_path)
    (root / "3.png").unlink()
    drawn_from = batches(source, 0, STEPS)  # no error of TensorFlow's, and an end
    assert len(drawn_from) == STEPS
    with pytest.raises(UserError, match=rf"^step \d+: 3.png is not there any more; the checkpoints in {tmp_path} are "
                       "kept; bring it back as it was and give the same command"):  # fmt: skip
        source.faults.refuse()
    assert not (tmp_path / "bad_files.csv").exists() and capsys.readouterr().err == ""


@pytest.mark.parametrize("limit, stops", [(3, False), (2, True), (0, True)])
def test_the_limit(root, tmp_path, limit, stops):
    source = load(root, bad_files_limit=limit)
    source.faults.begin(tmp_path)
    for number in (3, 5, 12):
        (root / f"{number}.png").unlink()
    batches(source, 0, STEPS)
    assert len(source.faults.since) == limit
    if not stops:
        return source.faults.refuse()
    with pytest.raises(UserError, match=rf"{limit} file.s. were passed over before .data.bad_files_limit {limit}."):
        source.faults.refuse()


def test_no_example_is_left(root, tmp_path):
    source = load(root, bad_files_limit=100)
    source.faults.begin(tmp_path)
    for number in range(LABELED):
        (root / f"labels/{number}.png").unlink()
    batches(source, 0, STEPS)
    with pytest.raises(UserError, match="no example is left in the set of .*bad_files.csv"):
        source.faults.refuse()
    again = load_as_begun(root, tmp_path)
    with pytest.raises(UserError, match="no example is left"):
        batches(again, 0, 1)
        again.faults.refuse()


def load_as_begun(root, folder):
    for number in range(LABELED):
        write(root, number)
    source = load(root, bad_files_limit=100)
    source.faults.begin(folder, STEPS)
    return source


def test_replicas(root, two_replicas, tmp_path):
    source = load(root)
    source.faults.begin(tmp_path)
    (root / "3.png").unlink()
    (root / "11.png").unlink()
    whole = drawn(source)
    again = load_restored(root, tmp_path, [3, 11])
    stream = paired_stream(again, seed=0, start=0, stop=STEPS, labeled_batch=2, unlabeled_batch=2, strong_views=0,
                           crop=(SIDE, SIDE), ignore_index=255, weak={"scale": (1.0, 1.0)})  # fmt: skip
    for name, wanted in zip(("labeled", "unlabeled"), whole, strict=True):
        shared = [np.concatenate([part.numpy()[:, 0, 0, 0] for part in
                                  two_replicas.experimental_local_results(batch[name][0])])
                  for batch in two_replicas.experimental_distribute_dataset(stream)]  # fmt: skip
        np.testing.assert_array_equal(shared, wanted)


def load_restored(root, folder, missing):
    for number in missing:
        write(root, number)
    source = load(root)
    source.faults.begin(folder, 0)
    for number in missing:
        (root / f"{number}.png").unlink()
    return source


def test_beside_the_stream(root, capsys):
    """Pictures of the report and the like: an error that names the file; in passing over all of a set, one less."""
    source = load(root)
    (root / "labels/16.png").unlink()
    with pytest.raises(UserError, match="^labels/16.png: is not there any more; bring it back as it was"):
        source.validation.label(0)
    signature = [tf.TensorSpec([], tf.int64)]
    read = tf.function(lambda index: (source.validation.image(index)[0, 0, 0], source.validation.label(index)[0, 0]),
                       input_signature=signature)  # fmt: skip
    found = list(source.validation.each(lambda n: read(tf.constant(n, tf.int64))))
    assert "labels/16.png is not there any more; passed over" in capsys.readouterr().err
    assert [(int(image), int(label)) for image, label in found] == [(17, 17 % 3)]
    assert source.validation.usable() == [1]
    sound = source.sound().validation
    assert sound.names == ("17.png",) and sound.lines == ("17.png\tlabels/17.png",)
    assert sound.image(0)[0, 0, 0] == 17 and sound.label(0)[0, 0] == 17 % 3
    source.faults.stopped = UserError("the limit")
    with pytest.raises(UserError, match="the limit"):
        list(source.validation.each(lambda n: n))


def test_folders_of_images(root, capsys):
    for number in range(LABELED, LABELED + UNLABELED):
        (root / f"labels/{number}.png").unlink()
    (root / "images").mkdir()
    for path in root.glob("*.png"):
        path.rename(root / "images" / path.name)
    source = image_folder(root=str(root), masks="labels", validation=1, classes=CLASSES, on_bad_file="skip")
    gone = source.labeled.names[2]
    (root / gone).unlink()
    labeled, _ = drawn(source)
    assert int(Path(gone).stem) not in labeled and len(set(labeled.ravel())) == source.labeled.count - 1
    assert f"{gone} is not there any more" in capsys.readouterr().err


def test_folders_of_photographs(tmp_path, capsys):
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    given = {"folder": str(tmp_path), "labeled": 5, "held_out": 0, "validation": 1, "test": 0, "sigma": 1.0}
    whole = batches(denoising(**given), 0, 8)
    source = denoising(**given, on_bad_file="skip")
    gone = source.labeled.names[2]
    (tmp_path / gone).write_bytes(b"")
    found = batches(source, 0, 8)
    same = [np.array_equal(a["labeled"][1], b["labeled"][1]) for a, b in zip(whole, found, strict=True)]
    assert True in same and False in same
    assert f"{gone} is empty; passed over" in capsys.readouterr().err
    assert denoising(**given, on_bad_file="skip").left_out == (gone,)
    with pytest.raises(UserError, match="1 file.s. cannot be used, named above"):
        denoising(**given)
