#!/bin/bash
# SmolLM2-135M through our engine and vLLM on one GPU, the same budget (smollm2.yaml) of MATH-500's first 20 problems:
#   results/h100/smollm2.sh GGUF DATA OUT
# GGUF: SmolLM2-135M-Instruct.Q4_1.gguf, by that name; DATA: the folder of math500.jsonl. OUT gets native.tgz and
# vllm.tgz (run folders), greedy_DTYPE.json (smollm2.py greedy) and log.txt. A step that fails does not stop the next.
# Then, anywhere: unpack both, `harness grade` each, `smollm2.py report native vllm FOLDER --greedy OUT/greedy_*.json`.
# To try it without a GPU: ENGINE=eager, OPTIONS="--limit 2 --samples 4 --max-new-tokens 32", GREEDY="--prompts 2
# --tokens 32", DTYPES=float32, and RIVAL_PYTHON, the interpreter that has vLLM.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
gguf=$(realpath "$1") data=$(realpath "$2"); mkdir -p "$3"; out=$(realpath "$3")
export HARNESS_MODELS=$(dirname "$gguf") HARNESS_DATA=$data
export VLLM_LOGGING_LEVEL=${VLLM_LOGGING_LEVEL:-INFO}  # what it chose and how long its start took goes into log.txt
engine=${ENGINE:-native} python=${PYTHON:-python3} rival=${RIVAL_PYTHON:-${PYTHON:-python3}}
runs=$(mktemp -d); trap 'rm -rf "$runs"' EXIT
cp "$here/smollm2.yaml" "$runs"; cd "$runs"  # so that the command in a manifest names no folder
failed=0

step() {  # name, seconds at most, command
    local name=$1 most=$2 began=$SECONDS code; shift 2
    timeout "$most" "$@" >> "$out/log.txt" 2>&1; code=$?
    ((code == 0)) || { failed=1; tail -n 25 "$out/log.txt"; }
    echo "$name: exit code $code, $((SECONDS - began)) s" | tee -a "$out/log.txt"
}

sample() {  # name of the run, engine, interpreter
    step "$2" "${LIMIT_S:-130}" "$3" -m harness.cli sample --engine "$2" --model smollm2-135m --task math500 \
        --budget smollm2.yaml --run "$1" ${OPTIONS:-}
    [ ! -d "results/runs/$1" ] || tar -czf "$out/$1.tgz" -C results/runs "$1"
}

sample native "$engine" "$python"
sample vllm vllm "$rival"
for dtype in ${DTYPES:-float32 bfloat16}; do
    step "greedy $dtype" "${LIMIT_S:-130}" "$rival" "$here/smollm2.py" greedy --engine "$engine" --dtype "$dtype" \
        --out "$out/greedy_$dtype.json" ${GREEDY:-}
done
exit $failed
