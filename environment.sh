#!/usr/bin/env bash
# Make the checkout's own environment (.venv) and install the requirement files named, unless that has been done;
# print the path of its python. Progress goes to stderr.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$here/.venv"
python="$venv/bin/python"

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

if ! suits "$python" || [ ! -e "$venv/bin/pip" ]; then  # pip comes last: without it, making .venv was cut short
  for candidate in python3 python3.12 python3.11 python; do
    if suits "$candidate"; then found="$candidate"; break; fi
  done
  if [ -z "${found:-}" ]; then echo "error: Python 3.11 or 3.12 is needed, and none is on the PATH" >&2; exit 2; fi
  echo "setting up $venv with $("$found" --version); once, some minutes" >&2
  if ! "$found" -m venv --clear "$venv" >&2; then
    echo "error: $found cannot make an environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2
  fi
fi
for requirements in "$@"; do
  stamp="$venv/installed-$(basename "$(dirname "$requirements")")-$(cksum < "$requirements" | tr ' ' -)"
  if [ ! -e "$stamp" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
    touch "$stamp"
  fi
done
echo "$python"
