"""The two ways in which a command ends without a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Wrong use or bad input: the message names the file, the value found and the remedy; exit status 2.

    Processes that ``torchrun`` started fail alike until they have joined: the first of each machine says so.
    """

    said_elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"


class RunFailed(Exception):
    """The run failed for a reason that no traceback explains; exit status 1.

    Without a message: another process failed first and says why, and this one ends in silence.
    """


@contextmanager
def told_with(use: str, remedy: str = "") -> Iterator[None]:
    """Put before a UserError from within what it keeps from being done, and below it what helps."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{use}: {error}" + (f"\n{remedy}" if remedy else "")) from None
