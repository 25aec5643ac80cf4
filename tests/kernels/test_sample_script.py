"""The GPU script of the small kernels goes through every part, in Triton's interpreter and at tiny shapes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "results" / "h100" / "small_kernels.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run on a GPU would time tiny shapes")
def test_dry_run(tmp_path):
    path = tmp_path / "lines.csv"
    command = [sys.executable, str(SCRIPT), "--dry-run", "--csv", str(path)]
    done = subprocess.run(command, env=os.environ.copy(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal to the float64 twins" in done.stdout and done.stdout.count("0 of 2 tokens part") == 10
    with path.open() as file:
        lines = list(csv.DictReader(file))
    kernels = {line["kernel"].split(",")[0] for line in lines}
    assert kernels == {"rmsnorm + residual", "swiglu", "sample", "draw"}
    assert all(line["us"] == line["share_of_copy"] == "" for line in lines), "nothing is timed without a GPU"


def test_without_a_gpu_it_says_so():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "no GPU here" in done.stderr
