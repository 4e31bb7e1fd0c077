# ruff: noqa: F401
"""Pages that people read: the report of a run, or of several side by side.

``results`` is what a page tells of a run, ``sentences`` what it says first, ``charts`` and ``pictures`` what it shows,
``report`` puts them together, ``evaluate`` scores the maps of a folder and writes all that follows from them.
"""

from evaluation.pages.report import choose_examples, write_report
from evaluation.pages.results import RunResults
