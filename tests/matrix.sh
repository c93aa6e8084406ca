#!/usr/bin/env bash
# Tries the package on several Pythons and torch releases: for each pair a virtual environment, the wheel, a few tests; then a table.
#   tests/matrix.sh                            every Python from 3.10 on found here, with torch 2.6, 2.13 and the newest release
#   tests/matrix.sh 3.10:2.6 3.13:newest       these pairs alone
# Torch is what pip takes: often a CUDA build of gigabytes. PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu makes it small.
# MATRIX_TESTS names other test files; MATRIX_WORK is a folder that keeps the logs, and the wheels, which are then taken again.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${MATRIX_WORK:-$(mktemp -d)}
tests=${MATRIX_TESTS:-test_operators.py test_demo.py}
mkdir -p "$work"
[ -n "${MATRIX_WORK:-}" ] || trap 'rm -rf "$work"' EXIT

python_of() {  # its path, where there is such an interpreter
  local candidate
  for candidate in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python /opt/python/cp"${1/./}"-cp"${1/./}"/bin/python; do
    "$candidate" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null && echo "$candidate" && return
  done
  return 1
}

wheel_of() {  # built once a Python
  compgen -G "$work/wheels/*-cp${1/./}-*.whl" && return
  FASTSEG_NO_CUDA=1 "$2" -m pip wheel -q --no-deps -w "$work/wheels" "$root" >&2 &&
    compgen -G "$work/wheels/*-cp${1/./}-*.whl"
}

try() {  # prints what became of one pair; the log has the rest
  local python wheel bin=$work/venv/bin wanted=torch
  python=$(python_of "$1") || { echo "no such Python here"; return; }
  wheel=$(wheel_of "$1" "$python" 2>>"$3") || { echo "no wheel"; return; }
  [ "$2" = newest ] || wanted="torch==$2.*"
  echo "$wanted" >"$work/constraints"  # in place of what this machine may have
  { rm -rf "$work/venv" && "$python" -m venv "$work/venv" && "$bin/pip" install -q -U pip &&
    PIP_CONSTRAINT=$work/constraints "$bin/pip" install -q torch "$wheel" pytest; } >>"$3" 2>&1 || { echo "does not install"; return; }
  printf '%s: ' "$("$bin/python" -c 'import torch; print(torch.__version__)')"
  # shellcheck disable=SC2046,SC2059,SC2086  # a list of files
  (cd "$work" && "$bin/pytest" -q -p no:cacheprovider $(printf "$root/tests/%s " $tests)) >>"$3" 2>&1
  tail -n 1 "$3"
}

if [ $# = 0 ]; then
  for python in 3.10 3.11 3.12 3.13 3.14; do
    python_of $python >/dev/null && set -- "$@" $python:2.6 $python:2.13 $python:newest
  done
fi
echo "| Python | torch asked for | torch: tests |"
echo "| --- | --- | --- |"
failed=0
for pair in "$@"; do
  log=$work/${pair/:/-}.log
  : >"$log"
  result=$(try "${pair%%:*}" "${pair##*:}" "$log")
  echo "| ${pair%%:*} | ${pair##*:} | $result |"
  [[ $result == *": "*passed* && $result != *failed* && $result != *error* ]] || { failed=1; tail -n 40 "$log" >&2; }
done
exit $failed
