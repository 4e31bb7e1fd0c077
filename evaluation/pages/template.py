"""Templates of pages, and data in them: what comes from files is text there, and never markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from evaluation.scores.images import show
from utils.files import plain


def page_template(name: str) -> Any:
    """A template of this folder, which escapes whatever is put into it."""
    loader = FileSystemLoader(Path(__file__).parent, encoding="utf-8")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["show"] = show
    return environment.get_template(name)


def embed_json(content: Any) -> Markup:
    """Strict JSON that can stand in a ``<script>`` element: nothing in it ends the element."""
    text = json.dumps(plain(content), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
