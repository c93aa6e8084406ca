#!/usr/bin/env bash
# Everything that a day with a GPU is to tell of the operators, in under ten minutes and without a network: see bench/README.md.
#   OUT=folder FASTSEG_COMMIT=… WHEELS=folder bench/gpu_day.sh      DEVICE=cpu bench/gpu_day.sh to try it
here=$(cd "$(dirname "$0")" && pwd) python=${PYTHON:-python3}
# on a GPU these sources are built and measured; on a CPU a package that is there, else these sources
export PATH="$PATH:/usr/local/cuda/bin"
(cd / && "$python" -c "import fastseg") 2>/dev/null || export PYTHONPATH="${here%/bench}${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$here/gpu_day.py" "${TABLE:-operators}" "$@"
