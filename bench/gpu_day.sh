#!/usr/bin/env bash
# Everything that a day with a GPU is to tell of the operators, in under ten minutes and without a network: see bench/README.md.
#   OUT=folder FASTSEG_COMMIT=… WHEELS=folder bench/gpu_day.sh      DEVICE=cpu bench/gpu_day.sh to try it
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" bench/gpu_day.py operators "$@"
