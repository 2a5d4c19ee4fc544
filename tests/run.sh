#!/usr/bin/env bash
# Set up an environment and run the tests in it; words are passed on to pytest. They pass with any processor's instructions:
# .ci/run shows the variables that take away the newer ones.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"  # threads that spin for longer slow a shared machine tenfold
python="$("$here/environment.sh" "$here/requirements.txt" "$here/baselines/requirements.txt" "$here/sampling/requirements.txt" "$here/tests/requirements.txt")"
cd "$here"
exec "$python" -m pytest -q -n auto --dist loadfile "$@"
