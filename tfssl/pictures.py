"""Masks, confidences and images as pictures: pure functions from arrays to 8-bit RGB arrays and PNG files."""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

IGNORED = (255, 255, 255)  # white: black is the background of most published palettes
GAP, TITLE_SIZE = 6, 14  # pixels


def _classes_and_ignored(mask, palette, ignore_index):
    """The mask as int64, ignored pixels set to len(palette), after checking that every other is a class."""
    mask = np.asarray(mask).astype(np.int64)
    ignored = mask == ignore_index
    unknown = ~ignored & ((mask < 0) | (mask >= len(palette)))
    if unknown.any():
        found = np.unique(mask[unknown]).tolist()
        raise ValueError(f"mask holds {found}, the palette has {len(palette)} colours")
    return np.where(ignored, len(palette), mask)


def colorize(mask, palette, ignore_index=255):
    """The colour of every pixel's class.

    mask: integers [H,W]; palette: one [red, green, blue] of 0..255 per class. Pixels of `ignore_index`
    (None: there is no such index) are white. Returns uint8 [H,W,3].
    """
    colours = np.asarray([*palette, IGNORED], np.uint8)
    return colours[_classes_and_ignored(mask, palette, ignore_index)]


def overlay(image, mask, palette, opacity=0.5, ignore_index=255):
    """The colours of the mask laid over the image; ignored pixels show the image alone.

    image: uint8 [H,W,3]; mask: integers [H,W]; opacity: 0 (image only) .. 1 (mask only).
    Returns uint8 [H,W,3].
    """
    colours = colorize(mask, palette, ignore_index).astype(np.float32)
    share = np.where(np.asarray(mask) == ignore_index, 0.0, opacity)[..., None]
    return np.round(image * (1 - share) + colours * share).astype(np.uint8)


def confidence_map(probability, colormap="viridis"):
    """A perceptually even colour scale: dark is 0, bright is 1.

    probability: float [H,W], clipped to 0..1; a value that is not a number is black. Returns uint8 [H,W,3].
    """
    return colormaps[colormap](np.clip(probability, 0.0, 1.0), bytes=True)[..., :3]


def save_palette_png(path, mask, palette, ignore_index=255):
    """Write an 8-bit palette PNG whose index values are the classes, so that it can serve as a label again.

    mask: integers [H,W]; `ignore_index` (0..255) keeps its value and shows white; unused indices are black.
    """
    _classes_and_ignored(mask, palette, ignore_index)
    if len(palette) > 256:
        raise ValueError(f"an 8-bit PNG holds at most 256 classes, not {len(palette)}")
    colours = np.zeros([256, 3], np.uint8)
    colours[: len(palette)] = palette
    if ignore_index is not None:
        colours[ignore_index] = IGNORED
    picture = Image.fromarray(np.asarray(mask).astype(np.uint8))
    picture.putpalette(colours.tobytes())
    picture.save(path, format="PNG")


def contact_sheet(rows, titles, height=160):
    """A grid of pictures under column titles, on white.

    rows: lists of uint8 [H,W,3] images (None leaves a cell empty); titles: one text per column;
    height: pixels of every picture, widths follow. Returns uint8 [H,W,3].
    """
    font = ImageFont.load_default(size=TITLE_SIZE)
    rows = [[cell if cell is None else _scaled(cell, height) for cell in row] for row in rows]
    widths = [int(np.ceil(font.getlength(title))) for title in titles]
    for row in rows:
        for column, picture in enumerate(row):
            widths[column] = max(widths[column], picture.width if picture else 0)
    lefts = np.cumsum([GAP, *(width + GAP for width in widths)])
    header = 2 * GAP + TITLE_SIZE
    sheet = Image.new("RGB", (int(lefts[-1]), header + len(rows) * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(lefts[:-1], titles, strict=True):
        draw.text((int(left), header - GAP), title, fill="black", font=font, anchor="ld")
    for number, row in enumerate(rows):
        for left, picture in zip(lefts, row, strict=False):
            if picture:
                sheet.paste(picture, (int(left), header + number * (height + GAP)))
    return np.asarray(sheet)


def _scaled(image, height):
    """The image at this height: single pixels stay visible when enlarged, areas are averaged when reduced."""
    picture = Image.fromarray(image)
    width = max(1, round(picture.width * height / picture.height))
    enlarged = height > picture.height
    return picture.resize((width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def save_png(path, image):
    """Write a uint8 [H,W,3] picture."""
    Image.fromarray(np.asarray(image)).save(path, format="PNG")
