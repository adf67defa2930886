# What every egs/<corpus>/run.sh shares: options, stages that are done once, and the interpreter.
# Source it after setting `stage`, `stop_stage`, `corpus`, `exp` and `seed` to their defaults.

die() { echo "error: $*" >&2; exit 2; }

# Kaldi-style options: --name value sets the variable $name (dashes become underscores).
parse_options() {
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --stage | --stop-stage | --corpus | --exp | --seed)
        [ $# -ge 2 ] || die "option $1 needs a value; see $0 --help"
        local name=${1#--}
        printf -v "${name//-/_}" '%s' "$2"
        shift 2
        ;;
      *) die "unknown option $1; see $0 --help" ;;
    esac
  done
  [[ "$stage$stop_stage$seed" =~ ^[0-9]+$ ]] || die "--stage, --stop-stage and --seed are numbers"
}

# run_stage N "what it does" function: runs the function once. A finished stage leaves
# $exp/done/N-<function>; remove that file to run the stage again. An interrupted one resumes.
run_stage() {
  local number=$1 what=$2 function=$3
  if [ "$number" -lt "$stage" ] || [ "$number" -gt "$stop_stage" ]; then return 0; fi
  local mark="$exp/done/$number-$function"
  if [ -e "$mark" ]; then
    echo "== stage $number: $what: already done (remove $mark to run it again)"
    return 0
  fi
  echo "== stage $number: $what ($(date +%H:%M:%S))"
  "$function"
  mkdir -p "$exp/done"
  touch "$mark"
}

# The environment that `make setup` made, or whatever is active.
if [ -x "$root/.venv/bin/python" ]; then PATH="$root/.venv/bin:$PATH"; fi
command -v speechssl >/dev/null || die "speechssl is not installed; run \`make setup\` in $root"

has_gpu() { python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# pretrain ARGUMENTS: `speechssl pretrain` on the GPU, or on two CPU processes of half the cores
# each, which is faster than one of all. The recipe's update is the same either way.
pretrain() {
  if has_gpu || [ "$(nproc)" -lt 2 ]; then
    speechssl pretrain "$@"
  else
    OMP_NUM_THREADS=$(($(nproc) / 2)) python -m torch.distributed.run --standalone \
      --nproc-per-node 2 -m speechssl.cli.main pretrain "$@"
  fi
}

# side_by_side FUNCTION NAME...: `FUNCTION NAME` for each name. Small models leave cores idle, so
# without a GPU as many run at once as there are cores; each line of output starts with its name.
side_by_side() (
  function=$1; shift
  at_once=$#
  if has_gpu; then at_once=1; elif [ "$(nproc)" -lt "$at_once" ]; then at_once=$(nproc); fi
  export OMP_NUM_THREADS=$(($(nproc) / at_once))
  failed=$(mktemp)
  trap 'rm -f "$failed"' EXIT
  trap 'kill $(jobs -p)' TERM
  for name in "$@"; do
    if [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; then wait -n || true; fi
    (
      trap '[ $? = 0 ] || echo "$name" >> "$failed"' EXIT
      "$function" "$name"
    ) > >(sed -u "s|^|$name: |") 2> >(sed -u "s|^|$name: |" >&2) &
  done
  wait
  if [ -s "$failed" ]; then die "failed: $(paste -sd ' ' "$failed")"; fi
)

# show_transcripts MODEL CUTS COUNT: transcribes the first COUNT recordings of a manifest with
# `speechssl transcribe` and prints what was really said above each.
show_transcripts() {
  python - "$2" "$3" <<'PY' | while IFS=$'\t' read -r file text; do
import sys
from pathlib import Path
from speechssl.data.manifest import cut_text, load_cuts

for cut in list(load_cuts(Path(sys.argv[1])))[: int(sys.argv[2])]:
    print(cut.recording.sources[0].source, cut_text(cut), sep="\t")
PY
    echo "file       $file"
    echo "reference  $text"
    echo "transcript $(speechssl transcribe "$1" "$file")"
  done
}
