"""The two ways in which a command ends without a traceback."""

from __future__ import annotations

import os


class UserError(Exception):
    """Wrong use or bad input: the message names the file, the value found and the remedy; exit status 2.

    Processes that ``torchrun`` started fail alike until they have joined: the first of each machine says so.
    """

    said_elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"


class RunFailed(Exception):
    """The run failed for a reason that no traceback explains; exit status 1.

    Without a message: another process failed first and says why, and this one ends in silence.
    """
