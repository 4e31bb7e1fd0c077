"""The report as a reader uses it: sorted, filtered, opened and thresholded in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.image_io import write_image, write_label, write_scores
from evaluation.pages.evaluate import evaluate_maps
from tests.evaluation.conftest import canvas_pixels
from utils.files import write_json
from utils.overlays import INVENTED, MISSED

COUNT, SIZE, CUT = 6, 32, 16
NAMES = [f"<i>{number}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page of images with scores 0.8 in a part of the object, which falls with their number, and 0.3 beside it."""
    root = tmp_path_factory.mktemp("report")
    rng, lines, maps = np.random.default_rng(0), [], {}
    for number, name in enumerate(NAMES):
        label = np.zeros((SIZE, SIZE), np.uint8)
        label[4:CUT, 4:24] = 1
        scores = np.full(label.shape, 0.1, np.float32)
        scores[4:CUT, 4 : 24 - 2 * number] = 0.8
        scores[CUT:20, 4:24] = 0.3
        image, label_path = root / "images" / f"{name}.png", root / "labels" / f"{number}.png"
        write_image(image, rng.integers(0, 255, label.shape).astype(np.uint8))
        write_label(label_path, label)
        write_scores(root / "out" / "pred" / f"{number}.tif", scores)
        lines.append(f"{image}\t{label_path}\n")
        maps[str(image)] = f"pred/{number}.tif"
    (root / "list.txt").write_text("".join(lines))
    record = {"maps": maps, "list": str(root / "list.txt"), "threshold": 0.5, "num_classes": 1}
    write_json(root / "out" / "predictions.json", record)
    evaluate_maps(root / "out")
    return root / "out" / "report.html"


def shown_names(page) -> list[str]:
    return [name for name in page.locator("#table tbody tr:visible button.open").all_inner_texts()]


def pixel(values: list[int], y: int, x: int) -> list[int]:
    return values[3 * (y * SIZE + x) :][:3]


def move_slider(page, value: int) -> None:
    page.eval_on_selector(
        ".threshold input",
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )
    page.wait_for_selector(f'#table .panels[data-drawn="{value}"]')


def test_the_table_sorts_both_ways_and_names_are_text(open_page, report):
    page = open_page(report)
    assert shown_names(page) == [f"{name}.png" for name in NAMES]
    heads = page.locator("#table th")
    page.click('button[data-sort="0"]')
    assert shown_names(page) == [f"{name}.png" for name in reversed(NAMES)]
    assert heads.nth(2).get_attribute("aria-sort") == "ascending"
    page.click('button[data-sort="0"]')
    assert shown_names(page) == [f"{name}.png" for name in NAMES]
    page.click('button[data-sort="name"]')
    page.click('button[data-sort="name"]')
    assert shown_names(page) == [f"{name}.png" for name in reversed(NAMES)]
    assert heads.nth(2).get_attribute("aria-sort") is None


def test_the_table_filters_by_name_and_by_iou(open_page, report):
    page = open_page(report)
    page.fill("#filter-name", ">3.P")
    assert shown_names(page) == ["<i>3.png"] and page.inner_text("#shown") == "1 of 6 images"
    page.fill("#filter-name", "")
    page.fill("#filter-most", "0.65")  # IoU = (20 - 2 n) / 20
    assert shown_names(page) == ["<i>4.png", "<i>5.png"]


def test_a_click_opens_an_image_and_another_closes_it(open_page, report):
    page = open_page(report)
    page.click("#table tr[data-image='2'] button.open")
    page.wait_for_selector("#table tr.detail [data-drawn]")
    assert page.locator("#table tr.detail span").all_inner_texts() == ["image", "label", "score", "errors"]
    page.click('button[data-sort="0"]')  # what is open stays below its image
    assert page.eval_on_selector("tr.detail", "row => row.previousElementSibling.dataset.image") == "2"
    page.click("#table tr[data-image='2'] button.open")
    assert page.locator("#table tr.detail").count() == 0


def test_no_row_moves_below_a_click_when_thumbnails_come(open_page, report):
    page = open_page(report)
    places = "() => [...document.querySelectorAll('#table tbody tr')].map((row) => row.offsetTop)"
    before = page.evaluate(places)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    drawn = f"[...document.querySelectorAll('#table .thumb canvas')].filter((canvas) => canvas.width === {SIZE})"
    page.wait_for_function(f"() => {drawn}.length === {COUNT}")
    assert page.evaluate(places) == before


def test_the_slider_redraws_the_mask_from_the_scores(open_page, report):
    page = open_page(report)
    page.click("#table tr[data-image='2'] button.open")
    errors = "#table tr.detail div:nth-child(4) > canvas"
    page.wait_for_selector('#table .panels[data-drawn="own"]')
    before = canvas_pixels(page, errors)
    assert pixel(before, 10, 21) == list(MISSED) and pixel(before, CUT + 1, 10) not in (list(MISSED), list(INVENTED))
    assert page.inner_text(".threshold output") == "0.5000, this run's own"
    move_slider(page, 64)  # below 0.3
    after = canvas_pixels(page, errors)
    assert pixel(after, CUT + 1, 10) == list(INVENTED) and pixel(after, 10, 21) == list(MISSED)
    assert page.inner_text(".threshold output").startswith(
        "0.251: IoU of all 0.563, precision 0.692, sensitivity 0.750"
    )
    move_slider(page, 230)  # above every score
    assert pixel(canvas_pixels(page, errors), 10, 5) == list(MISSED)
    page.click(".threshold button")
    page.wait_for_selector('#table .panels[data-drawn="own"]')
    assert canvas_pixels(page, errors) == before
    assert page.locator(".threshold button").is_hidden()


def test_the_images_to_look_at_first_are_drawn(open_page, report):
    page = open_page(report)
    page.wait_for_selector(".first figure:nth-child(5) [data-drawn]")
    assert page.locator(".first figcaption b").first.inner_text() == "<i>5.png"
    assert page.locator("#sentence a").first.get_attribute("href") == "#image-5"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(open_page, report, width):
    page = open_page(report, width)
    page.click("#table tr[data-image='2'] button.open")
    page.wait_for_selector("#table tr.detail [data-drawn]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_summary_fits_on_four_pages_of_paper(open_page, report):
    page = open_page(report)
    page.wait_for_selector(".first figure:nth-child(5) [data-drawn]")
    printed = page.pdf(prefer_css_page_size=True)
    assert 1 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 4
