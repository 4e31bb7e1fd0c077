"""The review page in a real browser: decided by keys and clicks, kept, downloaded, and applied."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from datasets.image_io import read_label
from datasets.lists import read_list
from evaluation.label_errors.decisions import apply_decisions
from evaluation.label_errors.issue_files import write_issue_files
from evaluation.label_errors.review import crop_window, write_review
from evaluation.suspect_labels import main
from tests.evaluation.conftest import canvas_pixels
from utils.overlays import INVENTED, MISSED
from utils.run_folder import display_path


@pytest.fixture
def review(issue_folder) -> Path:
    path = issue_folder.folder / "review.html"
    main(["--dataset", "my set", "--prd_dir", str(issue_folder.folder), "--review"])
    return path


def pressed(page, number: int) -> list[str]:
    buttons = page.locator(f"#issue-{number} [aria-pressed=true]")
    return [buttons.nth(place).get_attribute("data-action") for place in range(buttons.count())]


def download(page, into: Path) -> dict:
    with page.expect_download() as started:
        page.click("#download")
    assert started.value.suggested_filename == "decisions.json"
    started.value.save_as(into / "decisions.json")
    return json.loads((into / "decisions.json").read_text())


def test_the_page_is_whole_and_escaped(review, issue_folder):
    page = review.read_text()
    assert "&lt;b&gt;0.png" in page and "<b>0.png" not in page and not re.search(r"https?://", page)
    assert "3 places where predictions contradict a label" in page and "2 missing, 1 invented." in page
    command = re.search("<code>(.*?)</code>", page)[1]
    assert command.startswith("python datasets/apply_decisions.py --dataset &#39;my set&#39; --train_list ")
    assert command.endswith(f"--prd_dir {display_path(issue_folder.folder)} decisions.json")


@pytest.mark.parametrize("shape", [(40, 40), (300, 500)])
@pytest.mark.parametrize("box", [(0, 0, 5, 5), (20, 30, 20, 10), (36, 38, 4, 2), (0, 0, 40, 40)])
def test_a_crop_holds_its_issue_and_stays_in_the_image(box, shape):
    window = crop_window(box, shape)
    for part, start, length, size in zip(window, box[:2], box[2:], shape, strict=True):
        assert 0 <= part.start <= start and start + length <= part.stop <= size
        assert part.stop - part.start >= min(72, size)


def test_pictures_show_what_differs_and_dim_what_is_not_at_issue(open_page, review):
    page = open_page(review)
    page.wait_for_selector("#issue-1 [data-drawn]")
    page.wait_for_selector("#issue-2 [data-drawn]")
    names = page.locator("#issue-1 .panels span").all_inner_texts()
    assert names == ["image", "label", "prediction", "where they differ"]
    for number, own, color in ((1, (9, 10), MISSED), (2, (24, 28), INVENTED)):
        shown = np.array(canvas_pixels(page, f"#issue-{number} div:nth-child(4) > canvas")).reshape(40, 40, 3)
        other = (24, 28) if number == 1 else (9, 10)
        assert shown[own].tolist() == list(color)
        assert shown[other].tolist() not in (list(MISSED), list(INVENTED)) and shown[other].max() < 170


def test_decisions_by_keys_and_clicks_are_downloaded_and_applied(open_page, review, issue_folder, tmp_path):
    page = open_page(review)
    assert page.is_disabled("#download")
    page.keyboard.press("t")  # the first issue; the next becomes the current one
    page.keyboard.press("d")
    page.keyboard.press("k")
    assert [pressed(page, number) for number in (1, 2, 3)] == [["take"], ["drop"], ["keep"]]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("u")
    page.click("#issue-2 [data-action=ignore]")
    page.click("#issue-3 [data-action=take]")
    assert [pressed(page, number) for number in (1, 2, 3)] == [["take"], ["ignore"], ["take"]]
    page.click("#issue-3 [data-action=take]")  # a second click takes it back
    assert page.inner_text("#decided") == "2 of 3 decided: 1 take, 1 ignore"
    decisions = download(page, tmp_path)
    image = display_path(issue_folder.issues[0].image)
    assert decisions == {
        "list": display_path(issue_folder.list_path),
        "issues": [{"image": image, "id": 1, "action": "take"}, {"image": image, "id": 2, "action": "ignore"}],
    }
    new_list = apply_decisions("set", tmp_path / "decisions.json", prd_dir=issue_folder.folder, root=tmp_path)
    label = read_label(read_list(new_list, root=tmp_path)[0].require_label())
    assert label[4:14, 5:15].all() and (label[20:28, 22:34] == 255).all()


def test_u_takes_back_what_a_key_decided_last(open_page, review):
    page = open_page(review)
    page.keyboard.press("t")
    page.keyboard.press("u")  # the second issue is the current one by now, and undecided
    assert pressed(page, 1) == [] and page.inner_text("#decided") == "0 of 3 decided"
    page.keyboard.press("k")
    assert pressed(page, 1) == ["keep"] and pressed(page, 2) == []


def test_decisions_outlast_the_page_and_can_be_read_back(open_page, review, tmp_path):
    page = open_page(review)
    page.keyboard.press("i")
    page.reload()
    assert pressed(page, 1) == ["ignore"]
    download(page, tmp_path)
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#clear")
    assert pressed(page, 1) == [] and page.is_disabled("#download")
    page.set_input_files("#upload", tmp_path / "decisions.json")
    page.wait_for_selector("#issue-1 [aria-pressed=true]")
    assert pressed(page, 1) == ["ignore"]
    (tmp_path / "decisions.json").write_text('{"list": "other.txt", "issues": []}')
    page.set_input_files("#upload", tmp_path / "decisions.json")
    page.wait_for_selector("#trouble:visible")
    assert "holds no decisions on these issues" in page.inner_text("#trouble") and pressed(page, 1) == ["ignore"]


def test_a_browser_that_keeps_nothing_still_decides(browser, review):
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    page = context.new_page()
    page.goto(review.as_uri())
    page.keyboard.press("t")
    assert pressed(page, 1) == ["take"]
    assert "download the decisions before you close it" in page.inner_text("#trouble")
    context.close()


def test_issues_are_filtered_by_kind_and_by_decision(open_page, review):
    page = open_page(review)
    page.select_option("#kind", "missing")
    assert page.locator(".issue:visible").count() == 2 and page.inner_text("#shown") == "2 shown"
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("t")
    page.check("#open-only")
    assert [page.locator(".issue:visible").nth(0).get_attribute("id")] == ["issue-3"]
    page.select_option("#kind", "")
    assert page.locator(".issue:visible").count() == 2


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(open_page, review, width):
    page = open_page(review, width)
    page.wait_for_selector("#issue-1 [data-drawn]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_images_of_several_channels_are_shown_as_they_were_judged(issue_folder):
    page = issue_folder.folder / "review.html"
    for image in issue_folder.images:
        values = np.zeros((3, *read_label(issue_folder.images[image].label).shape), np.uint8)
        tifffile.imwrite(image, values, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    write_issue_files(dataclasses.replace(issue_folder, in_channels=3))
    main(["--dataset", "set", "--prd_dir", str(issue_folder.folder), "--review"])
    assert page.is_file()


def test_labels_without_issues_have_a_page_too(open_page, issue_folder, tmp_path):
    write_review(tmp_path / "none.html", dataclasses.replace(issue_folder, issues=[]), "set")
    page = open_page(tmp_path / "none.html")
    assert "Nothing contradicts these labels." in page.inner_text(".lead")
