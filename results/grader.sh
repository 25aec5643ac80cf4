#!/usr/bin/env bash
# The figures of grader.md: a name and the command's JSON line for each. HARNESS_DATA is the folder of the rows.
# `results/grader.sh counts` leaves out what is timed against math-verify; REPEATS (5) says how often that is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=${HARNESS_DATA:?the folder that holds grader_cases.jsonl, grader_pairs.jsonl and model_outputs.jsonl}
core=(--where tier=core --where conflict= --without tests/grading/contested.yaml)

check() {
    printf '%s\t' "$1"
    .venv/bin/harness check-grader "$data/$2" "${@:3}" | tail -n 1
}

check "core" grader_cases.jsonl "${core[@]}"
for tier in normalise extract parser; do
    check "$tier" grader_cases.jsonl --where tier=$tier
done
check "label = mv" model_outputs.jsonl --where label=@mv
check "pairs" grader_pairs.jsonl
[ "${1:-}" != counts ] || exit 0
check "core, both" grader_cases.jsonl "${core[@]}" --against math-verify --repeats "${REPEATS:-5}"
check "outputs, both" model_outputs.jsonl --settled tests/grading/parted.yaml --against math-verify --repeats "${REPEATS:-5}"
check "pairs, both" grader_pairs.jsonl --against math-verify --repeats "${REPEATS:-5}"
