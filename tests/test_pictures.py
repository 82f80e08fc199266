"""Pictures: exact colours, index files that read back as labels, and a grid with every cell in place."""

import numpy as np
import pytest
from PIL import Image

from tfssl import pictures

PALETTE = [[0, 0, 0], [128, 0, 0], [0, 200, 40]]
MASK = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


def test_colorize_gives_each_class_its_colour_and_ignored_pixels_white():
    expected = [[[0, 0, 0], [128, 0, 0], [0, 200, 40]], [[0, 200, 40], [255, 255, 255], [128, 0, 0]]]
    result = pictures.colorize(MASK, PALETTE)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("wrong", [3, -1, 255])
def test_colorize_refuses_values_that_are_no_class(wrong):
    with pytest.raises(ValueError, match=rf"\[{wrong}\].*3 colours"):
        pictures.colorize(np.array([[0, wrong]], np.int32), PALETTE, ignore_index=7)


def test_colorize_can_ignore_a_negative_index_or_none_at_all():
    white = pictures.colorize(np.array([[-1]]), PALETTE, ignore_index=-1)
    np.testing.assert_array_equal(white, [[[255, 255, 255]]])
    many = [[number % 256, number // 256, 9] for number in range(300)]
    np.testing.assert_array_equal(
        pictures.colorize(np.array([[255, 299]]), many, ignore_index=None), [[[255, 0, 9], [43, 1, 9]]]
    )


def test_overlay_blends_by_opacity_and_leaves_ignored_pixels_alone():
    image = np.full([2, 3, 3], 100, np.uint8)
    blended = pictures.overlay(image, MASK, PALETTE, opacity=0.25)
    assert blended.dtype == np.uint8
    np.testing.assert_array_equal(blended[0, 1], [107, 75, 75])
    np.testing.assert_array_equal(blended[1, 1], [100, 100, 100])
    np.testing.assert_array_equal(pictures.overlay(image, MASK, PALETTE, opacity=0.0), image)
    np.testing.assert_array_equal(pictures.overlay(image, MASK, PALETTE, opacity=1.0)[0], np.uint8(PALETTE))


def test_confidence_map_grows_brighter_and_clips():
    ramp = pictures.confidence_map(np.linspace(0, 1, 11, dtype=np.float32)[None])
    assert ramp.dtype == np.uint8 and ramp.shape == (1, 11, 3)
    assert (np.diff(ramp[0].astype(int) @ [0.2126, 0.7152, 0.0722]) > 0).all()
    np.testing.assert_array_equal(pictures.confidence_map(np.array([[-3.0, 7.0]])), ramp[:, [0, -1]])
    np.testing.assert_array_equal(pictures.confidence_map(np.array([[np.nan]])), [[[0, 0, 0]]])


def test_palette_png_reads_back_as_the_same_label(tmp_path):
    path = tmp_path / "mask.png"
    pictures.save_palette_png(path, MASK, PALETTE)
    header = path.read_bytes()[:26]
    assert header[24:26] == b"\x08\x03"  # 8 bits, palette
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), MASK)
        assert len(picture.getpalette()) == 768
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), pictures.colorize(MASK, PALETTE))


def test_palette_png_refuses_what_an_index_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="3 colours"):
        pictures.save_palette_png(tmp_path / "mask.png", [[0, 260]], PALETTE)
    with pytest.raises(ValueError, match="256 classes"):
        pictures.save_palette_png(tmp_path / "mask.png", [[0, 1]], [[1, 2, 3]] * 257, ignore_index=None)
    assert not list(tmp_path.iterdir())


def test_contact_sheet_puts_every_picture_at_its_place():
    red, green = np.zeros([10, 20, 3], np.uint8), np.zeros([80, 40, 3], np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    sheet = pictures.contact_sheet([[red, green], [None, red]], ["a", "b"], height=40)
    gap, header = pictures.GAP, 2 * pictures.GAP + pictures.TITLE_SIZE
    assert sheet.dtype == np.uint8 and sheet.shape == (header + 2 * (40 + gap), 3 * gap + 80 + 80, 3)
    right = 2 * gap + 80
    assert (sheet[header : header + 40, gap : gap + 80] == [255, 0, 0]).all()
    assert (sheet[header : header + 40, right : right + 20] == [0, 255, 0]).all()
    assert (sheet[header : header + 40, right + 20 : right + 80] == 255).all()
    below = header + 40 + gap
    assert (sheet[below : below + 40, : right - gap] == 255).all()
    assert (sheet[below : below + 40, right : right + 80] == [255, 0, 0]).all()
    for left in (gap, right):  # both titles are drawn, inside the header
        assert (sheet[:header, left : left + 20] < 100).any()


def test_contact_sheet_makes_room_for_long_titles():
    picture = np.zeros([8, 8, 3], np.uint8)
    titles = "a", "pseudo label of t1"
    narrow, wide = (pictures.contact_sheet([[picture]], [title], height=8) for title in titles)
    assert wide.shape[1] > 100 > narrow.shape[1]
    assert (wide[:, -pictures.GAP :] == 255).all()  # the text ends before the border
