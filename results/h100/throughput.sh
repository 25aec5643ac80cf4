#!/usr/bin/env bash
# Every row of throughput.csv, on one H100: results/h100/throughput.sh CSV [PART...]
#
# Cells that CSV has a row of are left out, so a call may end early and be made again: begin with a file that is not
# there, go on part by part while the machine is held. Without parts all of them, the most telling first. A rival's part
# measures our engine in the same cells where CSV lacks them. mamba_ssm wants its packages (docs/throughput.md), vLLM its
# own. SSM states are in float16, in float32 in the part fp32. Environment: CELLS="256x1024 ..." in place of a part's
# cells; VLLM_SETTINGS=in-process,asynchronous for a part of vLLM's grid (a row then gives way to a faster one alone);
# LARGEST, the larger batch of the 3B at 2,048 tokens (280: 80 GB hold 281 of the teacher's, here and in vLLM).
set -uo pipefail

csv=$(realpath -m "${1:?results/h100/throughput.sh CSV [PART...]}") || exit 1
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
harness=${HARNESS:-$([ -x .venv/bin/harness ] && echo .venv/bin/harness || echo harness)}
llama=random:llama-3.2-1b llamba=random:llamba-1b mamba2=random:mamba2-1.3b
teacher=random:llama-3.2-3b student=random:mamba-in-llama-3b
largest=${LARGEST:-280} state_dtype=float16
failed=0

# measure "MODEL..." "CELL..." [OPTION...]
measure() {
    local models=() cells=() model cell
    for model in $1; do models+=(--model "$model"); done
    for cell in ${CELLS:-$2}; do cells+=(--cell "$cell"); done
    "$harness" throughput "${models[@]}" "${cells[@]}" --prompt 128 --ignore-eos --engine native \
        --state-dtype "$state_dtype" --csv "$csv" --go-on "${@:3}" || failed=1
}

against_vllm() {
    measure "$1" "$2" --against vllm ${VLLM_SETTINGS:+--vllm-settings "$VLLM_SETTINGS"}
}

part() {
    case $1 in
    llama) measure $llama "256x1024 64x512 512x2048 256x4096" ;;
    llamba) measure $llamba "256x1024 512x1024 1024x1024 64x512 256x512" ;;
    mamba2) measure $mamba2 "256x512 64x512" ;;
    mamba_ssm-llamba) measure $llamba "256x1024 256x512" --against mamba-ssm ;;
    mamba_ssm-mamba2) measure $mamba2 "256x512" --against mamba-ssm ;;
    vllm-llama) against_vllm $llama "256x1024 64x512 512x2048 256x4096" ;;
    vllm-mamba2) against_vllm $mamba2 "256x512" ;;
    3b)
        measure $student "128x2048 ${largest}x2048"
        measure $teacher "128x2048 ${largest}x2048"
        ;;
    vllm-3b) against_vllm $teacher "128x2048 ${largest}x2048" ;;
    mamba1) measure random:mamba-in-llama-1b "256x1024" ;;
    crossover) measure "$llama $llamba" "1x256 16x256 64x256 256x256 256x1024" --plot "${csv%.csv}.png" ;;
    fp32) state_dtype=float32 measure $llamba "256x1024" ;;
    *)
        echo "no part $1; parts: $parts" >&2
        failed=2
        ;;
    esac
}

parts="llama llamba mamba2 mamba_ssm-llamba mamba_ssm-mamba2 vllm-llama vllm-mamba2 3b vllm-3b mamba1 crossover fp32"
for name in ${*:-$parts}; do
    SECONDS=0
    part "$name"
    echo "part $name: $SECONDS s"
done
exit $failed
