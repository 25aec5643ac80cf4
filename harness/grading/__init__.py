"""A grader of mathematical answers that can be imported on its own: it needs no torch, and no sympy in your process.

``Judge`` decides pairs of (gold, answer), ``Grader`` whole logs; ``extract_answer`` finds what a response states. The
choices are the fields of ``Policy``. See ``docs/grading.md``.
"""

from harness.grading.cache import Cache
from harness.grading.extract import extract_answer, reference_answer
from harness.grading.grader import Grader
from harness.grading.judge import GRADER_VERSION, Judge
from harness.grading.policy import DEFAULT_POLICY, Policy
from harness.grading.pool import GraderUnavailable
from harness.grading.quick import Outcome
from harness.grading.summary import Summary, summarise

__all__ = [
    "DEFAULT_POLICY",
    "GRADER_VERSION",
    "Cache",
    "Grader",
    "GraderUnavailable",
    "Judge",
    "Outcome",
    "Policy",
    "Summary",
    "extract_answer",
    "reference_answer",
    "summarise",
]
