"""The report of fabricated run folders: whole, interrupted, damaged, hostile."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tfssl import figures, report
from tfssl.errors import UserError

CLASSES = ["background", "digit 0", '<b>bold</b> & "quoted"']
METRICS = {
    "miou": 0.68412,
    "pixel_accuracy": 0.9,
    "per_class_iou": dict(zip(CLASSES, [0.912345, 0.5, None], strict=True)),
    "steps": 1500,
    "seconds": 734.2,
    "method": "robust_mutual",
    "networks": {
        "teacher_1": {"miou": 0.68412, "pixel_accuracy": 0.9},
        "student_1": {"miou": 0.5123, "pixel_accuracy": 0.8},
    },
    "protocol": "whole",
    "images": 101,
}
HISTORY = """step,seconds,learning_rate,supervised,silent,broken,total_variation,rectified
10,5.0,0.02,2.5,0,nan,0.5,0.1
20,10.0,0.01,1.5,0,nan,0.4,0.2
30,15.0,0.005,0.5,0,nan,0.3,0.3
"""
EVALUATIONS = """step,miou,pixel_accuracy,pseudo_label_miou,pseudo_label_accuracy,total_variation,miou_teacher_2
10,0.4,0.7,0.3,0.6,0.5,0.35
30,0.6543,0.8,0.5432,0.7654,0.25,0.6
"""


@pytest.fixture
def folder(tmp_path):
    """A run folder with everything in it."""
    run = tmp_path / "my <run>"
    for name in ("pictures", "export/saved_model/1/variables", "export/onnx/2"):
        (run / name).mkdir(parents=True)
    task = {"classes": CLASSES, "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    config = {"about": "A run in <script>alert(1)</script>.", "method": {"name": "robust_mutual"}, "task": task}
    row = {"runtime": "openvino", "height": 75, "width": 101, "max_difference": 3.14159e-7, "agreement": 0.99995,
           "clear_agreement": 1.0, "compared": 0.9876}  # fmt: skip
    mixed = {**row, "runtime": "saved_model", "height": "mixed", "width": "mixed"}
    parity = {"saved_model": "saved_model/1", "onnx": "onnx/2", "version": 2, "reference": "Keras, eager, float32",
              "packages": {"onnxruntime": "1.31.1"}, "limits": {"difference": {"openvino": 1e-4},
              "agreement": {"openvino": 0.9999}}, "parity": [row, mixed], "seconds": 3.5}  # fmt: skip
    save(run / "config.json", config | {"training": {"steps": 1500}})
    save(run / "metrics.json", METRICS)
    save(run / "export/parity.json", parity)
    (run / "export/onnx/2/model.onnx").write_bytes(bytes(2_500_000))
    (run / "export/saved_model/1/saved_model.pb").write_bytes(bytes(1_000_000))
    (run / "export/saved_model/1/variables/values").write_bytes(bytes(230_000))
    (run / "export/saved_model/models.config").write_text("")
    (run / "history.csv").write_text(HISTORY)
    (run / "evaluations.csv").write_text(EVALUATIONS)
    Image.new("RGB", (8, 4), "red").save(run / "pictures/example_00.png")
    return run


def save(path, value):
    path.write_text(json.dumps(value))


def page_of(run):
    path = report.write(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that tags are balanced; collects tags, addresses and the text."""

    VOID = {"meta", "img", "br"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open[-1:] == ["style"] else data


def test_everything_is_told(folder):
    text = Page(page_of(folder)).text
    for expected in ("68.41 %", "90.00 %", "1500", "12 min 14 s", "robust_mutual", "protocol whole, images 101"):
        assert expected in text
    for name in CLASSES:
        assert name in text
    assert "91.23 %" in text and "50.00 %" in text  # per class
    assert "teacher_1 deployed" in text and "student_1" in text and "51.23 %" in text
    cells = " ".join(re.sub("<[^>]+>", " ", page_of(folder)).split())
    assert "onnx/2 2.50 MB" in cells and "saved_model/1 1.23 MB" in cells and "models.config" not in text
    assert "openvino, 75 x 101 3.1e-07 0.99995 1 0.9876" in cells
    assert "saved_model, mixed sizes" in text and "Compared with Keras, eager, float32, in 3.5 s" in text
    assert "onnxruntime 1.31.1" in text
    assert "Missing" not in text


def test_alarms_and_pseudo_labels_of_each_class(folder):
    assert "Alarms" not in page_of(folder) and "pseudo-labels: IoU" not in page_of(folder)
    (folder / "alarms.csv").write_text("step,kind,text\n40,one class,the network predicts 'sky' & no more\n")
    lines = [f"{step},{name},{accuracy},{iou}" for step, name, accuracy, iou in (
        (10, CLASSES[0], 0.1, 0.1), (20, CLASSES[0], 0.8125, 0.7525), (20, CLASSES[1], "", 0.0))]  # fmt: skip
    (folder / "pseudo_labels.csv").write_text("\n".join(["step,class,accuracy,iou", *lines, ""]))
    text = Page(page_of(folder)).text
    assert "Alarms" in text and "step 40: the network predicts 'sky' & no more" in text
    assert "75.25 %81.25 %" in text.replace("\n", "") and "10.00 %" not in text


def test_figures_and_their_last_values(folder):
    page = Page(page_of(folder))
    titles = re.findall(r"Figure (\d)\. (\w+)", page.text)
    names = ["Losses", "Accuracy", "Coupling", "Watched", "Learning"]
    assert titles == [(str(number), name) for number, name in enumerate(names, start=1)]
    assert page.tags.count("svg") == 5
    assert "mIoU, deployed network 65.43 %" in page.text
    assert "mIoU of the pseudo-labels 54.32 %" in page.text
    assert "accuracy of the pseudo-labels 76.54 %" in page.text
    assert "mIoU, teacher_2 60.00 %" in page.text
    assert "on held-out or validation data 0.25" in page.text and "on the training batches 0.3" in page.text
    assert "silent: zero throughout" in page.text and "broken: no finite value" in page.text
    assert "towards 0" in page.text


def test_gradient_shares_are_not_among_the_losses(folder):
    rows = ["step,loss_a,gradient_share_loss_a,gradient_share_loss_b", "10,2.5,0.75,0.25", "20,2.5,0.75,0.25", ""]
    (folder / "history.csv").write_text("\n".join(rows))
    losses, _, shares = re.findall(r"<figure>.*?</figure>", page_of(folder), re.S)[:3]
    assert "Losses" in losses and "loss_a 2.5" in Page(losses).text and "0.75" not in Page(losses).text
    assert "Gradient shares" in shares and "loss_a 0.75" in Page(shares).text and "loss_b 0.25" in Page(shares).text


def test_nothing_is_fetched_and_nothing_runs(folder):
    source = page_of(folder)
    page = Page(source)
    assert "http://" not in source and "https://" not in source and "url(" not in source.replace("url(#", "")
    assert "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    picture = base64.b64encode((folder / "pictures/example_00.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{picture}"' in source
    assert "prefers-color-scheme: dark" in source


def test_user_text_is_escaped(folder):
    source = page_of(folder)
    assert "<b>bold" not in source and "&lt;b&gt;bold&lt;/b&gt;" in source
    assert "<script" not in source and "&lt;script&gt;" in source
    assert "my &lt;run&gt;" in source


def test_colours_of_the_classes(folder):
    source = page_of(folder)
    assert source.count("background:rgb(4,5,6)") == 2  # by the class, and by the examples
    settings = json.loads((folder / "config.json").read_text())
    save(folder / "config.json", settings | {"task": {"classes": CLASSES, "palette": None}})
    assert "background:rgb(" not in page_of(folder)


def test_same_folder_same_bytes(folder):
    assert page_of(folder) == page_of(folder)


def test_empty_folder(tmp_path):
    page = Page(page_of(tmp_path))
    for name in ("config.json", "history.csv", "evaluations.csv", "metrics.json", "pictures", "export/parity.json"):
        assert f"{name} {'are' if name == 'pictures' else 'is'} not there" in page.text
    assert "svg" not in page.tags and "table" not in page.tags


@pytest.mark.parametrize(
    "name", ["config.json", "history.csv", "evaluations.csv", "metrics.json", "pictures", "export/parity.json"]
)
def test_each_part_may_be_missing(folder, name):
    (folder / name).rename(folder / "elsewhere")
    text = Page(page_of(folder)).text
    missing = text[text.index("Missing from this run") : text.index("Training")]
    assert name in missing and missing.count("not there") == 1


def test_interrupted_run_shows_the_last_evaluation(folder):
    (folder / "metrics.json").write_text('{"miou": 0.6')
    text = Page(page_of(folder)).text
    assert "65.43 %" in text and "at step 30, not final" in text
    assert "15.0 s" in text and "of 1500" in text
    assert "metrics.json cannot be read as JSON" in text


def test_damaged_files(folder):
    save(folder / "config.json", [1, 2])
    picture = (folder / "pictures/example_00.png").read_bytes()
    (folder / "pictures/example_01.png").write_bytes(picture[:-20])
    (folder / "evaluations.csv").write_text("")
    page = Page(page_of(folder))
    assert "config.json holds no JSON object" in page.text
    assert "pictures are cut off (example_01.png)" in page.text
    assert "evaluations.csv holds no rows" in page.text
    assert page.tags.count("img") == 1


def test_no_complaint_where_no_export_was_wanted(folder):
    settings = json.loads((folder / "config.json").read_text())
    save(folder / "config.json", settings | {"export": {"saved_model": False, "onnx": False}})
    (folder / "export/parity.json").unlink()
    assert "Missing" not in page_of(folder)


def test_numbers_of_an_export_that_are_not_ours(folder):
    for content in ({}, {"parity": None}, {"parity": 3}, {"parity": [1, None]}, {"parity": [{}]},
                    {"parity": [{"runtime": "<b>", "agreement": [{}]}], "packages": 5, "seconds": "x"}):  # fmt: skip
        save(folder / "export/parity.json", content)
        text = Page(page_of(folder)).text
        assert "onnx/2" in text and "Missing" not in text
    assert "<b>, None x None" in text


def test_regression(folder):
    networks = {"teacher": {"psnr": 27.126}}
    save(folder / "metrics.json", {"psnr": 27.126, "steps": 10, "seconds": 4000, "networks": networks})
    (folder / "evaluations.csv").write_text("step,psnr\n10,20.5\n20,25.25\n")
    text = Page(page_of(folder)).text
    assert "27.13 dB" in text and "PSNR, deployed network 25.25 dB" in text and "1 h 06 min" in text
    assert "%" not in text


def test_unknown_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        report.write(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "ending, last",
    [
        ("", []),
        ("3", []),
        ("30,15", [30, np.nan, np.nan]),
        ("30,15,0.", [30, 15, np.nan]),
        ("30,15,0.1\n", [30, 15, 0.1]),
    ],
)
def test_cut_last_row(tmp_path, ending, last):
    path = tmp_path / "history.csv"
    path.write_text(f"step,seconds,loss\n10,5,0.3\n20,10,0.2\n{ending}")
    columns, trouble = figures.columns(path)
    assert trouble is None
    rows = np.stack(list(columns.values()), axis=1)
    np.testing.assert_array_equal(rows, [[10, 5, 0.3], [20, 10, 0.2], *([last] if last else [])])


def test_report_of_a_cut_table(folder):
    for name in ("history.csv", "evaluations.csv"):
        (folder / name).write_text((folder / name).read_text() + "40,0.7")
    text = Page(page_of(folder)).text
    assert "supervised" in text and "mIoU, deployed network 65.43 %" in text and "Missing" not in text


def test_continued_run(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,loss\n10,1\n20,2\n30,340,9\nstep,loss\n20,5\n30,\n")
    columns, _ = figures.columns(path)
    np.testing.assert_array_equal(columns["step"], [10, 20, 30])
    np.testing.assert_array_equal(columns["loss"], [1, 5, np.nan])


def test_smoothed():
    values = np.array([1.0, np.nan, 3.0, np.inf, 5.0])
    np.testing.assert_allclose(figures.smoothed(values, 3), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(figures.smoothed(values, 1), [1, np.nan, 3, np.nan, 5])
    np.testing.assert_allclose(figures.smoothed(values, 99), [2, 2, 3, 4, 4])  # at most as wide as there are values


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 5,
        [-1.0, 2.0, -3.0, 4.0, 0.0],
        [1e-12, 1.0, 1e6, 0.0, 1e-3],
        [np.nan, np.inf, 1.0, -np.inf, np.nan],
        np.concatenate([np.zeros(401), [1.0, -1.0], np.zeros(597)]),  # cancels to zero in every point that is drawn
        np.where(np.arange(3000) == 1500, 1.0, np.nan),
    ],
)
def test_odd_terms_do_not_break_the_figure(values):
    history = {"step": np.arange(float(len(values))), "odd": np.array(values), "zero": np.zeros(len(values))}
    drawing = figures.terms(history, ["odd", "zero"], "loss")
    assert drawing.svg.startswith("<svg") and [key.text.split()[0] for key in drawing.legend] == ["odd", "zero:"]
    assert "nan" not in drawing.svg.lower()


def test_figures_stay_small_with_many_rows_and_terms():
    steps, random = np.arange(20_000.0), np.random.default_rng(0)
    history = {"step": steps} | {f"term {n}": random.lognormal(-n, 0.5, len(steps)) for n in range(8)}
    drawing = figures.terms(history, list(history)[1:], "loss")
    assert len(drawing.svg) < 200_000
    assert len({(key.colour, key.dash) for key in drawing.legend}) == 8
    assert ">0.01<" in drawing.svg  # plain numbers on a logarithmic axis


def test_a_linear_axis_holds_zero_and_a_wide_range_is_logarithmic():
    steps = np.arange(50.0)
    plain = figures.terms({"step": steps, "a": 2 - steps / 50}, ["a"], "loss")
    wide = figures.terms({"step": steps, "a": np.exp(-steps / 5)}, ["a"], "loss")
    assert plain.svg.count(">0<") == 2 and wide.svg.count(">0<") == 1  # of wide, the steps alone begin at 0
    assert ">0.001<" in wide.svg and ">0.001<" not in plain.svg
