"""Losses by name, their weighted sums such as ``bce+0.5*dice``, and the module that computes them.

The names come without torch, so that ``--help`` can list them; what computes is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from training.losses.spec import LOSSES as LOSSES
from training.losses.spec import LossSpec as LossSpec
from training.losses.spec import LossTerm as LossTerm
from training.losses.spec import needs_transition_matrix as needs_transition_matrix
from training.losses.spec import parse_loss as parse_loss
from training.losses.spec import refuse_shares as refuse_shares
from utils.registry import on_demand

if TYPE_CHECKING:
    from training.losses.module import SegmentationLoss as SegmentationLoss
    from training.losses.module import frequency_weights as frequency_weights

__getattr__ = on_demand(__name__, module="SegmentationLoss frequency_weights")
