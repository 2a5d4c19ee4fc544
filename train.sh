#!/usr/bin/env bash
# Train on a folder of images, then draw a sheet of samples and score them. Does its own set-up; the same command goes on.
#   ./train.sh [IMAGES] [--minutes M] [--config FILE] [--run DIR] [--device D] [--processes N] [section.key=value ...]
# Without IMAGES it trains on the set that comes with the project. It ends after about M minutes on this machine, scores included;
# without a GPU, your images get 10 minutes unless you say otherwise, and the minutes choose the recipe. With N processes each takes
# a GPU where there are GPUs. See python train.py --help for the settings.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"  # threads that spin for longer slow a shared machine tenfold

# Recipes without a GPU: the minutes from which on each is the best, and its name; lab/results.md, "Which resolution pays".
cpu_recipes='1 fluent-faces-64
5 photos-128
60 photos-256'

# Nothing that is printed decides over the work: not to a pipe whose reader has gone, nor to a full disk, nor to nowhere.
trap '' PIPE
[ -e /dev/fd/0 ] || exec </dev/null
[ -e /dev/fd/1 ] || exec >/dev/null
[ -e /dev/fd/2 ] || exec 2>/dev/null
say() { printf '%s\n' "$@" 2>/dev/null || true; }
fail() { say "error: $1" >&2; exit 2; }
take() { [ -z "$images" ] || fail "two folders given, $images and $1"; images="$1"; }
images="" minutes="" run="" config="" device="" processes=1 settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) sed -n '2,6s/^# *//p' "${BASH_SOURCE[0]}" || true; exit 0 ;;
    --minutes|--run|--config|--device|--processes)
      [ -n "${2:-}" ] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift ;;
    data.path=*) images="${1#data.path=}" ;;
    -*) fail "$1: no such option; see ./train.sh --help" ;;
    *=*) if [ -e "$1" ]; then take "$1"; else settings+=("$1"); fi ;;
    *) [ -e "$1" ] || fail "$1: no such folder or zip of images"
       take "$1" ;;
  esac
  shift
done

[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes $processes: not a number of processes"
[[ "$minutes" =~ ^([1-9][0-9]{0,5})?$ ]] || fail "--minutes $minutes: not a number of minutes"

python="$("$here/environment.sh" "$here/requirements.txt")"
[ -n "$device" ] || device="$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')"

if [ -n "$config" ]; then
  packages='import sys; sys.path.insert(0, sys.argv[1]); from methods import requirements; print(requirements(sys.argv[2:]))'
  more="$("$python" -c "$packages" "$here" --config "$config" ${settings[@]+"${settings[@]}"})"
  [ -z "$more" ] || "$here/environment.sh" "$here/$more" > /dev/null
else
  config="$here/configs/fluent-faces-128.yaml"
  [ -n "$images" ] || settings=("data.path=$here/data/fluent_faces" ${settings[@]+"${settings[@]}"})  # from any folder
  case "$device" in
    cuda*) [ -z "$images" ] || config="$here/configs/fewshot-256.yaml" ;;
    *)
      if [ -n "$images" ]; then
        while read -r least name; do [ "$least" -gt "${minutes:-10}" ] || config="$here/configs/$name.yaml"; done <<< "$cpu_recipes"
        case " ${settings[*]-} " in
          *" train.epochs="*|*" train.minutes="*) ;;  # yours
          *) minutes="${minutes:-10}"
             say "No GPU: about $minutes min with $(basename "$config"), scores included; --minutes 30 or 120 gives better pictures." ;;
        esac
      fi ;;
  esac
fi
[ -z "$minutes" ] || settings=(--scored "train.minutes=$minutes" ${settings[@]+"${settings[@]}"})
recipe="$(basename "${config%.yaml}")"
if [ -n "$images" ]; then
  set_name="$(basename "$images")"
  [ -n "$run" ] || run="runs/${set_name%.zip}-$recipe"
  settings=("data.path=$images" ${settings[@]+"${settings[@]}"})
else
  [ -n "$run" ] || run="runs/$recipe"
fi

scripts="python "
[ "$PWD" = "$here" ] || scripts="python $(printf %q "$here")/"
launch=("$here/train.py")
[ "$processes" = 1 ] || launch=(-m torch.distributed.run --standalone --nproc-per-node "$processes" -- "$here/train.py")
"$python" "${launch[@]}" --config "$config" --run "$run" --device "$device" ${settings[@]+"${settings[@]}"}
"$python" "$here/sample.py" "$run" --out "$run/drawn" --num 64 --grid --device "$device"

score=("$run" --device "$device")
case "$device" in
  cuda*) scored=inception ;;
  *) scored=effnet-lite2; score+=(--features effnet-lite2 --metrics quick) ;;
esac
heldout=""
if [[ "$recipe" = fluent-faces-* ]] && [ -z "$images" ]; then
  score+=(--heldout "$here/data/fluent_faces_heldout")
  heldout=" --heldout $(printf %q "$here/data/fluent_faces_heldout")"
fi
status=0 report="$run/evaluation/$scored/report.html"
"$python" "$here/evaluate.py" "${score[@]}" || status=$?
if [ "$status" = 3 ]; then
  report="none yet"
  say "Not scored, for want of weights; this needs none: ${scripts}evaluate.py $(printf %q "$run") --features effnet-lite2"
elif [ "$status" != 0 ]; then
  exit "$status"
fi

matches=""
[ ! -d "$run/matches" ] || matches=" $run/matches,"

cat 2>/dev/null <<END || true

Sheet     $run/drawn/grid.png
Report    $report
Training  $run/samples,$matches $run/metrics.jsonl
Next, after: source $(printf %q "$here")/.venv/bin/activate
  ${scripts}sample.py $(printf %q "$run") --out more --num 256 --nearest $(printf %q "${images:-$here/data/fluent_faces}")
  ${scripts}sample.py $(printf %q "$run") --out film --interpolate 3,8,12 --frames 60
  ${scripts}evaluate.py $(printf %q "$run") --features effnet-lite2$heldout   # backtracking and path lengths too
  tensorboard --logdir $(printf %q "$run")
END
