"""Objects and networks in masks: telling them apart, measuring them, and holding those of two masks against each other.

Foreground is connected over edges and corners (8 neighbours), background over edges alone, as digital topology has it.
"""

from __future__ import annotations

from utils.registry import Registry

# name → from a mask, bool (H, W), to the numbers of its objects, int32 (H, W).
INSTANCES = Registry(
    {"components": "evaluation.objects.splitting:components", "watershed": "evaluation.objects.splitting:watershed"}
)
