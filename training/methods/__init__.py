"""How networks learn from labels that may be wrong: a file for each method; plain training is one of them.

A method is imported when a run asks for it.
"""

from __future__ import annotations

from utils.registry import Registry

METHODS = Registry(
    {"supervised": "training.methods.supervised:Supervised", "label_free": "training.label_free:PseudoLabels"}
)
