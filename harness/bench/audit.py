"""``harness grade --audit``: a second grader over a run's verdicts, which stay as they are."""

from __future__ import annotations

import json
import os

from rich.console import Console

from harness.bench.job import grade, task_of
from harness.grading.audit import audit
from harness.grading.peer import PACKAGE, require
from harness.grading.tables import print_partings
from harness.runs.folder import RunFolder
from harness.runs.log import read_log


def audit_run(folder: RunFolder, console: Console) -> None:
    """Grade the run if it is not graded yet, then list where math-verify parts from its verdicts."""
    version = require()
    if not folder.verdicts_path.is_file():
        grade(folder, console)
    problems = {p.id: p for p in task_of(folder.read_manifest()).problems}
    found = audit(problems, read_log(folder.log_path).trajectories, folder.read_verdicts(), os.cpu_count() or 1)
    print_partings(found.partings, version, console)
    counts = {"samples": found.samples, "unscored": found.unscored, "parted": found.parted}
    console.print(json.dumps({"audit": f"{PACKAGE} {version}", **counts}), highlight=False, soft_wrap=True)
