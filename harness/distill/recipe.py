"""A recipe: everything that decides a trained model, in one YAML file under ``recipes/``.

Its sha256 stands in the model card; a run is one recipe from start to end, resumed or not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import yaml

from harness.models.config import DecoderConfig
from harness.records import InputError, build, nearest

RECIPES = Path(__file__).parent / "recipes"
# The first steps of every recipe use few rows and fp32 products, so that any CPU can repeat their losses.
EXACT_STEPS = 20

Objective = Literal["pretrain", "mixers", "hidden", "kd"]


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """``steps`` AdamW steps of ``rows`` problems on one objective; linear warm-up, last ``decay`` share down to 0."""

    objective: Objective
    steps: int
    rows: int
    lr: float
    warmup: int = 50
    decay: float = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """``teacher`` None is training from scratch; ``exact_rows`` is the batch of the first 20 steps.

    ``data_offset`` is the first training item of the generator's stream that this recipe reads.
    """

    name: str
    seed: int
    model: DecoderConfig
    stages: tuple[Stage, ...]
    teacher: str | None = None
    data_offset: int = 0
    exact_rows: int = 4
    weight_decay: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.95)
    clip: float = 1.0

    def __post_init__(self) -> None:
        distils = any(stage.objective != "pretrain" for stage in self.stages)
        if distils and self.teacher is None:
            raise InputError(f"recipe {self.name}: teacher is missing; stages other than pretrain need one")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage that ``step`` falls in and the step's number inside it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"step beyond the recipe's {self.steps}")

    def rows_at(self, step: int) -> int:
        return self.exact_rows if step < EXACT_STEPS else self.stage_at(step)[0].rows

    def first_item(self, step: int) -> int:
        """Index of the first training item of a step: steps read the stream one after the other."""
        done = self.data_offset + self.exact_rows * min(step, EXACT_STEPS)
        position = 0
        for stage in self.stages:
            start, end = max(position, EXACT_STEPS), min(position + stage.steps, step)
            done += max(0, end - start) * stage.rows
            position += stage.steps
        return done


def load_recipe(name_or_path: str) -> tuple[Recipe, str]:
    """A recipe by name (of ``recipes/``) or path, and the sha256 of its file."""
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
        raise InputError(f"recipe {name_or_path!r}: no such recipe; {nearest(name_or_path, known)}")
    text = path.read_bytes()
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error}); see recipes/tiny-teacher.yaml") from error
    return build(Recipe, data, str(path)), hashlib.sha256(text).hexdigest()


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The same recipe at ``factor`` times the steps, for a trial; its models are for looking, not for shipping."""
    stages = tuple(dataclasses.replace(s, steps=max(1, round(s.steps * factor))) for s in recipe.stages)
    return dataclasses.replace(recipe, stages=stages)
