"""Several predictions of the same images held against the first of them: a table, and comparison.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from datasets.list_splits import group_names
from evaluation.pages.evaluate import NAMED_FILES, ScoringOptions, score_folder
from evaluation.pages.results import RunResults
from evaluation.scores.images import TITLE_WIDTH, ImageResult, show, title_of
from evaluation.scores.map_folder import COMPARISON, find_maps
from evaluation.scores.paired import group_means, paired_difference
from utils.cli import UserError, counted, shortened
from utils.files import write_json
from utils.output_folder import replaced_output, try_output
from utils.run_folder import display_path, environment_record


def compare_maps(
    prd_dirs: Sequence[Path],
    test_data_dir: str | None = None,
    *,
    group_by: str | None = None,
    out: Path | None = None,
    **options: Unpack[ScoringOptions],
) -> dict[str, Any]:
    """Score folders of maps and compare each but the first with the first, image by image or group by group.

    Args:
        group_by: a regular expression; images in whose path it finds the same text count once, by their mean.
        out: where comparison.json goes; default: beside the maps of the first folder.
        options: how all of them are scored, see `evaluation.pages.evaluate.score_folder`.
    Returns: the content of comparison.json.
    Raises:
        UserError: fewer than two folders, no image in common, labels that differ; and what `score_folder` raises.
    """
    if len(prd_dirs) < 2:
        raise UserError("--compare needs two or more folders of predictions, the one to compare with first")
    try_output(out or find_maps(prd_dirs[0]).folder, COMPARISON, expected=(COMPARISON.record,))
    scored = [score_folder(folder, test_data_dir, **options) for folder in prd_dirs]
    tables = common_results([results for _, results in scored])
    images = [display_path(image) for image in tables[0]]
    groups = group_names(images, group_by)
    names = list(dict.fromkeys(groups))
    known = [next(iter(table.values())).metrics for table in tables]  # of any image
    metrics = [name for name in scored[0][1].summary["per_image_mean"] if all(name in own for own in known)]
    largest = {name: max(result.largest.get(name, 1.0) for result in tables[0].values()) for name in metrics}
    values = {
        name: [
            group_means(np.array([result.metrics[name] for result in table.values()]), groups)[1] for table in tables
        ]
        for name in metrics
    }
    content = {
        "folders": [display_path(folder.maps) for folder, _ in scored],
        "thresholds": [results.summary["threshold"] for _, results in scored],
        "n_images": len(images),
        "group_by": group_by,
        "units": names,
        "differences": [
            {
                name: paired_difference(columns[0], columns[place], largest=largest[name])._asdict()
                for name, columns in values.items()
            }
            for place in range(1, len(tables))
        ],
        "values": values,
        "environment": environment_record(),
    }
    target = out or scored[0][0].folder
    with replaced_output(target, COMPARISON, expected=(COMPARISON.record,)) as partial:
        write_json(partial / COMPARISON.record, content)
    print_comparison(content, scored[0][1].scorer.num_classes)
    print(f"figures: {display_path(target / COMPARISON.record)}")
    return content


def common_results(scored: Sequence[RunResults]) -> list[dict[Path, ImageResult]]:
    """Image → its result, for every folder, of the images that all have, in one order.

    Raises:
        UserError: there are none, or an image has different labels.
    """
    tables = [{result.sample.image: result for result in results.totals.results} for results in scored]
    common = [image for image in tables[0] if all(image in table for table in tables)]
    everywhere = {image for table in tables for image in table}
    if not common:
        raise UserError("--compare: no image has a map in every folder; name the list by --test_data_dir LIST")
    if len(common) < len(everywhere):
        missing = [display_path(image) for image in sorted(everywhere - set(common))]
        print(f"images without a map in every folder, left out ({len(missing)}): {shortened(missing, NAMED_FILES)}")
    for image in common:
        labels = {table[image].sample.label for table in tables}
        if len(labels) > 1:
            raise UserError(
                f"--compare: {display_path(image)} has different labels in the lists of these predictions; name one "
                "list by --test_data_dir LIST"
            )
    return [{image: table[image] for image in common} for table in tables]


def print_comparison(content: dict[str, Any], num_classes: int) -> None:
    """The differences for people."""
    images, units = counted(content["n_images"], "image"), len(content["units"])
    what = (
        f"{images} in {counted(content['units'], 'group')} of {content['group_by']!r}"
        if content["group_by"]
        else images
    )
    print(f"\n{what}; A: {content['folders'][0]}")
    for number, differences in enumerate(content["differences"], start=1):
        letter = chr(ord("A") + number) if number < 26 else f"A{number}"
        print(f"\n{letter}: {content['folders'][number]}")
        print(f"{'':{TITLE_WIDTH}}{'A':>7}{letter:>8}   {f'{letter} − A [95 % interval]':34}{'p':>8}{'n':>6}")
        for name, row in differences.items():
            interval = f"[{show(row['low'])}, {show(row['high'])}]"
            means = f"{title_of(name, num_classes):{TITLE_WIDTH}}{show(row['first']):>7}{show(row['second']):>8}"
            print(f"{means}   {show(row['difference']):9} {interval:24}{show(row['p']):>8}{row['pairs']:>6}")
    smallest = f"; with {units} the smallest possible is {show(2.0 ** (1 - units))}" if units <= 8 else ""
    print(f"p: permutation test of the signs of paired differences, two-sided{smallest}")
