#!/usr/bin/env bash
# The same of whole systems: sampling, training steps, an epoch of each on phantoms. WHEELS brings what the data pipeline needs.
TABLE=training exec bash "$(dirname "$0")/gpu_day.sh" "$@"
