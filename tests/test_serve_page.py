"""The page at / in a real browser: a person gives it a picture and sees the right mask and the right shares."""

import base64
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.exports_for_tests import CLASSES, PALETTE, SIZES, tiny_network
from tests.serving_for_tests import decoded, encoded, pixels, serving
from tfssl.export import Product, export
from tfssl.tasks import Regression

pytestmark = pytest.mark.slow
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
PIXELS = """
const canvas = document.getElementById(arguments[0]);
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return [canvas.width, canvas.height, Array.from(data)];
"""
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer: transfer}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: make test-slow does it")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(programs.values()):
        pytest.skip("no chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs["chromedriver"]))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, served):
    browser.set_window_size(1280, 900)
    browser.get(f"http://{served.rest}/")
    return browser


def wait(page, condition, seconds=60):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(page, seconds).until(lambda _: condition())


def text(page, name):
    return page.find_element("id", name).text


def canvas(page, name):
    width, height, data = page.execute_script(PIXELS, name)
    return np.uint8(data).reshape(height, width, 4)[..., :3]


def rows(page):
    """{class: (share in percent, pixels, colour)}"""
    found = {}
    for row in page.find_elements("css selector", "#shares tbody tr"):
        _, name, share, count = [cell.text for cell in row.find_elements("tag name", "td")]
        colour = row.find_element("class name", "swatch").value_of_css_property("background-color")
        found[name] = (float(share.removesuffix(" %")), int(count.replace(",", "")), re.findall(r"\d+", colour)[:3])
    return found


@pytest.mark.parametrize(("way", "kind", "height", "width"), [("choose", "JPEG", 90, 131), ("drop", "PNG", 64, 40)])
def test_a_picture_is_shown_with_its_mask_and_its_classes(page, called, tmp_path, way, kind, height, width):
    content = encoded(pixels(height, width, 11), kind)
    answer = called[0].signatures["serving_default"](image_bytes=tf.constant([content]))
    mask, counts = decoded(answer["mask_png_bytes"].numpy()[0]), answer["class_pixels"].numpy()[0]
    assert len(np.unique(mask)) > 1
    if way == "choose":
        path = tmp_path / "picture.jpg"
        path.write_bytes(content)
        page.find_element("id", "file").send_keys(str(path))
    else:
        page.execute_script(DROP, base64.b64encode(content).decode())
    wait(page, lambda: f"{width} × {height} pixels" in text(page, "status"))

    colours = np.uint8(PALETTE)[mask]
    np.testing.assert_array_equal(canvas(page, "mask"), colours)
    expected = {
        CLASSES[index]: (round(100 * count / mask.size, 2), count, [str(value) for value in PALETTE[index]])
        for index, count in enumerate(counts)
        if count
    }
    shown = rows(page)
    assert shown.keys() == expected.keys()
    for name, (share, count, colour) in expected.items():
        assert shown[name][1:] == (count, colour) and abs(shown[name][0] - share) < 0.011

    picture = tf.io.decode_image(content, channels=3).numpy()
    for share in 0, 100:
        slide(page, share)
        right = picture if share == 0 else colours
        rounding = 8 if kind == "JPEG" and share == 0 else 0  # browser and server have different decoders
        assert np.abs(canvas(page, "overlay").astype(int) - right).max() <= rounding
    slide(page, 40)
    blended = 0.6 * picture + 0.4 * colours
    assert np.abs(canvas(page, "overlay") - blended).max() <= 8


def slide(page, share):
    page.execute_script(
        "const slider = document.getElementById('opacity'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'));",
        share,
    )
    assert text(page, "percent") == f"{share} %"


def test_what_is_no_picture_is_told_plainly(page, tmp_path):
    path = tmp_path / "letter.png"
    path.write_bytes(b"Dear reader,")
    page.find_element("id", "file").send_keys(str(path))
    wait(page, lambda: "refused the picture" in text(page, "status"))
    assert not page.find_element("id", "result").is_displayed()
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0")
    page.find_element("id", "file").send_keys(str(path))
    wait(page, lambda: "The server answered 400: " in text(page, "status"))
    assert "900000000 pixels" in text(page, "status")


def test_it_can_be_used_by_keyboard_and_heard(page):
    from selenium.webdriver.common.keys import Keys

    page.find_element("tag name", "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("id") == "file"
    status = page.find_element("id", "status")
    assert (status.get_attribute("role"), status.get_attribute("aria-live")) == ("status", "polite")
    for name in "file", "opacity":
        assert page.find_elements("css selector", f"label[for={name}]")


def test_it_fits_every_width_and_loads_nothing_from_elsewhere(page, served, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(pixels(300, 900, 5)))
    page.find_element("id", "file").send_keys(str(path))
    wait(page, lambda: "900 × 300 pixels" in text(page, "status"))
    for width in 1280, 500:
        page.set_window_size(width, 800)
        inside, whole = page.execute_script(
            "return [document.documentElement.clientWidth, document.documentElement.scrollWidth]"
        )
        assert whole <= inside
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded and all(name.startswith((f"http://{served.rest}/", "blob:", "data:")) for name in loaded)
    severe = [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in severe if " 400 " not in message]  # the refusal of another test


def test_of_a_network_that_predicts_an_image_the_image_is_shown(browser, tmp_path):
    facts = {"name": "denoising", "task": "regression"}
    made = export(Product(tiny_network(seed=2), Regression(), facts=facts), tmp_path / "export", sizes=SIZES)
    content = encoded(pixels(40, 70, 12))
    signature = tf.saved_model.load(str(made["saved_model"])).signatures["serving_default"]
    right = decoded(signature(image_bytes=tf.constant([content]))["output_png_bytes"].numpy()[0])
    (tmp_path / "noisy.png").write_bytes(content)
    with serving(tmp_path, "--name", "denoising") as server:
        browser.get(f"http://{server.rest}/")
        browser.find_element("id", "file").send_keys(str(tmp_path / "noisy.png"))
        wait(browser, lambda: "70 × 40 pixels" in text(browser, "status"))
        np.testing.assert_array_equal(canvas(browser, "mask"), right)
        assert text(browser, "mask-name") == "Output" and not browser.find_element("id", "classes").is_displayed()
