#!/usr/bin/env bash
# The same of whole systems: sampling, training steps, an epoch of each on phantoms. WHEELS brings what the data pipeline needs.
#   OUT=folder FASTSEG_COMMIT=… WHEELS=folder bench/gpu_day_training.sh      DEVICE=cpu bench/gpu_day_training.sh to try it
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" bench/gpu_day.py training "$@"
