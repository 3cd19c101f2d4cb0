#!/usr/bin/env bash
# Train with several processes, one per GPU (or, on a machine without GPUs, on its cores):
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: the same line on each, with NNODES, NODE_RANK (0 on the first), MASTER_ADDR (of
# the first) and PORT in the environment.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,5s/^# *//p' "$0" >&2
    exit 2
fi
# One process first: yapf, which mmengine imports, writes its cache in place, and a rank that reads it
# half-written ends with "EOFError: Ran out of input".
"${PYTHON:-python}" -c "import yapf"
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$2" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
