"""What the path without sympy refuses is left to the other path (``test_properties.py`` holds the two together)."""

from __future__ import annotations

import pytest

from harness.grading.canonical import canonical
from harness.grading.fast import fast_form
from harness.grading.limits import Unparsable
from harness.grading.normalise import normalise
from harness.grading.policy import Policy

DEFAULT = Policy()


@pytest.mark.parametrize("text", ["1/0", r"\frac{3}{0}", r"\sqrt{2}/0"])
def test_undefined_is_left_to_the_other_path_which_refuses(text: str) -> None:
    normal = normalise(text, DEFAULT)
    assert fast_form(normal, DEFAULT) is None
    with pytest.raises(Unparsable):
        canonical(normal, DEFAULT)
