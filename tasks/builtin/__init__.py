"""The built-in task: random problems in the manner of MATH and AMC with worked solutions.

``generate(seed, index)`` is deterministic; ``FAMILIES`` maps a family's name to its maker.
"""

from .item import Item
from .registry import FAMILIES, generate

__all__ = ["FAMILIES", "Item", "generate"]
