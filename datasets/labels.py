"""What every part of the project knows of labels: the value that counts nowhere, and how many classes there are.

This file imports nothing, so that whoever needs only these two opens no other.
"""

IGNORE = 255  # in memory, always
FOREGROUNDS = ("bright", "dark", "minority")  # what a user can say of the foreground's looks


def label_classes(num_classes: int) -> int:
    """How many classes labels hold: 2 for binary (``num_classes`` 1), else ``num_classes``.

    >>> label_classes(1), label_classes(2), label_classes(19)
    (2, 2, 19)
    """
    return max(num_classes, 2)
