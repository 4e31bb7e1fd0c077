"""Labels that Label Studio exports, named by tasks: ``task-12-annotation-3-by-1-tag-nucleus-0.png``, or ``.npy``.

Which image a task is stands in the JSON export alone; a label of several regions has a file for each.

Source: the naming of label-studio-converter's brush exports.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from datasets.list_layouts import Tree
from datasets.list_names import without_codes
from datasets.list_objects import merge_object_masks
from datasets.list_pairing import stem
from datasets.list_rows import Parts
from utils.cli import UserError, counted, shortened
from utils.files import read_json_if_whole
from utils.paths import display_path

TASK = re.compile(r"task-(?P<task>\d+)-annotation-\d+-by-(?:\d+|[^@]+@[^-]+)-(?P<kind>.+)-\d+")


def task_rows(tree: Tree, kinds: Sequence[str], merged_folder: Path, say: Callable[[str], object]) -> Parts:
    """The rows of a tree with such labels; none where there are none.

    Args:
        kinds: of the labels, ``tag-nucleus`` of ``tag`` and ``nucleus``; without them the only one that is there.
        merged_folder: where labels go that are merged from several regions.
    Raises:
        UserError: no JSON export, or one that names none of the images; several kinds and none, or another, named.
            (Exports that are read leave ``tree.foreign``.)
    """
    files = {found.path: match for found in tree.files if (match := TASK.fullmatch(stem(found.path)))}
    if not files:
        return {}
    first = next(iter(files))
    there = sorted({match["kind"] for match in files.values()})
    if len(kinds or there) > 1 or not {*kinds} <= {*there}:
        raise UserError(
            f"{display_path(first.parent)} has labels of: {', '.join(there)}; name one of them with --labels"
        )
    exports = {path: _images_of_tasks(path) for path in tree.foreign[".json"]}
    tree.foreign[".json"] = [path for path in exports if not exports[path]]
    tasks = {task: name for export in exports.values() for task, name in export.items()}
    if not tasks:
        raise UserError(
            f"{display_path(first)} is named by its task in Label Studio, not by its image: put the JSON export of the "
            "project (Export > JSON), which has the image of each task, into the folder of the labels"
        )
    images = {without_codes(stem(found.path)): found for found in tree.files if found.path not in files}
    masks: dict[Path, list[Path]] = defaultdict(list)
    for path, match in files.items():
        found = images.get(without_codes(stem(Path(tasks.get(int(match["task"]), "")))))
        if found is not None and match["kind"] == (kinds or there)[0]:
            masks[found.path].append(path)
    if not masks:
        raise UserError(
            f"{display_path(tree.top)} has none of the images of Label Studio's tasks, "
            f"{shortened([*tasks.values()], 3)}: put them beside the labels"
        )
    has_regions = any(len(each) > 1 for each in masks.values())
    label_of = {image: each[0] for image, each in masks.items()}
    label_of = merge_object_masks(masks, merged_folder, say) if has_regions else label_of
    parts: Parts = defaultdict(list)
    for found in images.values():
        if found.path in label_of:
            parts[found.split].append((found.path, label_of[found.path]))
    say(f"labels are those of {(kinds or there)[0]}, paired by the tasks of Label Studio")
    lost = [found.path.name for found in images.values() if found.path not in label_of]
    if lost:
        say(f"left out: {counted(lost, 'image')} of tasks without label: {shortened(lost)}")
    return dict(parts)


def _images_of_tasks(path: Path) -> dict[int, str]:
    """The file name of each task's image, by its number, in a JSON export, whole or "JSON-MIN"; else nothing."""
    content = read_json_if_whole(path)
    tasks = [task for task in content if isinstance(task, dict)] if isinstance(content, list) else []
    found = {}
    for task in tasks:
        names = [value for value in (task.get("data") or task).values() if isinstance(value, str) and "/" in value]
        if isinstance(task.get("id"), int) and names:
            address = unquote(names[0]).rpartition("?d=")[2]  # of files that the server has itself
            found[task["id"]] = PurePosixPath(address.partition("?")[0]).name
    return found
