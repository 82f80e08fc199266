"""What is told of data, and the lists that part it."""

import numpy as np
import pytest
from PIL import Image

from tests.lists_for_tests import cache, load, root  # noqa: F401
from tfssl import datasheet, errors
from tfssl.data import __main__ as command
from tfssl.data.digit_scenes import digit_scenes

CONFIG = """{"data": {"source": "split_lists", "root": "ROOT", "labeled": "LABELED", "validation": "validation.txt"},
"task": {"classes": ["sky", "road", "tree"]}, "method": {"name": "supervised"}}"""


@pytest.fixture
def config(root, tmp_path, monkeypatch):  # noqa: F811
    """A function that writes the configuration of the small data set; commands run in its folder."""
    monkeypatch.chdir(tmp_path)

    def write(labeled="labeled.txt"):
        path = tmp_path / "config.json"
        path.write_text(CONFIG.replace("ROOT", str(root)).replace("LABELED", labeled))
        return str(path)

    return write


def run(capsys, *arguments):
    """(status, stdout, stderr) of the command."""
    status = 0
    try:
        errors.run(command.main, list(arguments))
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_counts_by_hand(root):  # noqa: F811
    source = load(root)
    found = datasheet.sheets(source, 255)
    assert {name: one.count for name, one in found.items()} == {"labeled": 2, "unlabeled": 1, "validation": 1}
    assert found["labeled"].sizes == {(20, 30): 1, (24, 18): 1} and found["unlabeled"].pixels is None
    labels = [source.labeled.label(number).numpy() for number in range(2)]
    for value, pixels in zip((0, 1, 2, 255), found["labeled"].pixels, strict=True):
        assert pixels == sum((label == value).sum() for label in labels)
    np.testing.assert_array_equal(found["labeled"].images, [2, 2, 2])


def test_the_command_tells_what_there_is(config, capsys, tmp_path):
    status, out, _ = run(capsys, "check", config(), "--picture", "sheet.png")
    lines = out.splitlines()
    assert status == 0
    assert lines[1].split() == ["labeled", "2", "20", "x", "30:", "1,", "24", "x", "18:", "1"]
    assert next(line for line in lines if line.startswith("road")).split()[2] == "2"
    assert Image.open(tmp_path / "sheet.png").size[0] > 300


def test_the_command_tells_what_is_wrong(config, capsys, root):  # noqa: F811
    (root / "labels/a.png").write_bytes(b"garbage")
    status, out, told = run(capsys, "check", config())
    assert status == 2 and out == ""
    assert "labels/a.png: is not a PNG [data.labeled]" in told
    assert told.splitlines()[-1].startswith("error: 1 bad file(s)")


def test_denoising_and_digits_have_a_sheet():
    source = digit_scenes(labeled_scenes=4, unlabeled_scenes=3, validation_scenes=2, test_scenes=2, held_out_scenes=1)
    found = datasheet.sheets(source, 255)
    assert found["labeled"].pixels.sum() == 4 * 96 * 96
    picture = datasheet.contact_sheet(source, 255, most=3)
    assert picture.dtype == np.uint8 and picture.ndim == 3


def test_lists_of_a_part(config, capsys, tmp_path, root):  # noqa: F811
    status, out, _ = run(capsys, "split", config(), "--labeled", "1/2", "--output", "lists")
    assert status == 0 and "1 images" in out
    lines = [(tmp_path / f"lists/{name}.txt").read_text().splitlines() for name in ("labeled", "unlabeled")]
    assert sorted(lines[0] + lines[1]) == ["a.jpg\tlabels/a.png", "b.jpg\tlabels/b.png"]
    status, _, told = run(capsys, "split", config(), "--labeled", "1/2", "--output", "lists")
    assert status == 2 and "lists/labeled.txt and lists/unlabeled.txt exist" in told
    again = config(str(tmp_path / "lists/labeled.txt"))  # what was written can be read
    assert run(capsys, "check", again)[0] == 0


def test_what_had_no_label_stays_among_the_unlabeled(config, capsys, tmp_path):
    arguments = ["split", config(), "--labeled", "1", "--output", "lists", "--set", "data.unlabeled=unlabeled.txt"]
    assert run(capsys, *arguments)[0] == 0
    labeled, unlabeled = ((tmp_path / f"lists/{name}.txt").read_text().split() for name in ("labeled", "unlabeled"))
    assert len(labeled) == 2 and set(unlabeled) > {"c.png"} and not set(labeled) & set(unlabeled)


@pytest.mark.parametrize("text, words", [("0", "of 2 labeled images that is 0"), ("2", "that is 2; give 1 to 1"),
                                         ("half", "write a share as 1/8"), ("1/0", "write a share"),
                                         ("1.5", "write a share as 1/8"), ("100%", "that is 2"),
                                         ("150%", "that is 3"), ("-3", "that is -3; give 1 to 1"),
                                         ("1.0", "write a share as 1/8")])  # fmt: skip
def test_amounts_that_cannot_be(config, capsys, text, words):
    status, _, told = run(capsys, "split", config(), f"--labeled={text}", "--output", "lists")
    assert status == 2 and words in told


@pytest.mark.parametrize("arguments, says", [
    (["check", "--picture", "."], "--picture .: cannot write there (Is a directory)"),
    (["check", "--picture", "config.json/x.png"], "--picture config.json/x.png: cannot write there"),
    (["split", "--labeled", "1", "--output", "config.json"], "--output config.json: cannot write there"),
    (["split", "--labeled", "1", "--output", "config.json/x"], "--output config.json/x: cannot write there"),
    (["split", "--labeled", "1", "--output", "lists", "--seed", "-1"], "--seed -1: give 0 or more"),
])  # fmt: skip
def test_places_that_cannot_be_written(config, capsys, tmp_path, arguments, says):
    path = config()
    before = (tmp_path / "config.json").read_text()
    status, _, told = run(capsys, arguments[0], path, *arguments[1:])
    assert status == 2 and told.splitlines()[-1].startswith(f"error: {says}")
    assert (tmp_path / "config.json").read_text() == before


def test_all_examples_that_cannot_be_read_are_named(root):  # noqa: F811
    """As where a disk has gone, or of data that are not all read before training."""
    source = load(root)
    (root / "b.jpg").unlink()
    (root / "c.png").write_bytes(b"garbage")
    Image.fromarray(np.full((21, 33), 7, np.uint8)).save(root / "labels/d.png")
    with pytest.raises(errors.UserError, match="3 example.s. named above cannot be used") as caught:
        datasheet.sheets(source, 255)
    one, other, third = caught.value.details
    assert one.startswith("b.jpg: ") and other.startswith("c.png: ") and "[Op" not in one + other
    assert third == "labels/d.png: is not what it was when it was checked; bring it back as it was"


def test_amounts():
    assert [datasheet.amount_of(text, 1000) for text in ("1/8", "0.125", "12.5%", "125")] == [125] * 4


def test_every_class_is_chosen_where_possible():
    random = np.random.default_rng(0)
    for seed in range(20):
        shows = random.uniform(size=(60, 8)) < [0.9, 0.5, 0.3, 0.1, 0.05, 0.03, 0.02, 0.02]
        shows[:, 7] = False  # nobody shows it
        taken = datasheet.chosen(shows, 8, seed)
        assert len(set(taken)) == 8 == len(taken)
        np.testing.assert_array_equal(shows[taken].any(0), shows.any(0))
        assert taken == datasheet.chosen(shows, 8, seed)
    assert datasheet.chosen(shows, 30, 0) != datasheet.chosen(shows, 30, 1)
    rare = np.eye(5, dtype=bool)
    assert len(datasheet.chosen(rare, 2, 0)) == 2  # fewer images than classes


def test_only_files_can_be_listed(tmp_path, capsys):
    path = tmp_path / "digits.json"
    path.write_text('{"method": {"name": "supervised"}}')
    status, _, told = run(capsys, "split", str(path), "--labeled", "4", "--output", str(tmp_path / "lists"))
    assert status == 2 and "only data in files can be parted" in told
