# What every egs/<corpus>/run.sh shares: options, stages that are done once, and the interpreter.
# Source it after setting `stage`, `stop_stage`, `corpus`, `exp` and `seed` to their defaults.

die() { echo "error: $*" >&2; exit 2; }

options="stage stop-stage corpus exp seed"
benchmark=no
rounds=2 # of self-training, where the experiment has it
init=""  # a model folder to start from, where the experiment takes one

# Kaldi-style options: --name value, for the names in $options, sets the variable $name (dashes
# become underscores; paths become absolute); --benchmark, where there is one, sets benchmark=yes.
parse_options() {
  local name value
  while [ $# -gt 0 ]; do
    name=${1#--}
    if [[ "$1" = -h || "$1" = --help ]]; then usage; exit 0; fi
    if [[ "$1" = --benchmark && " $options " = *" objectives "* ]]; then
      benchmark=yes
      shift
      continue
    fi
    [[ "$1" = --* && " $options " = *" $name "* ]] || die "unknown option $1; see $0 --help"
    [ $# -ge 2 ] || die "option $1 needs a value; see $0 --help"
    value=$2
    case "$name" in
      stage | stop-stage | seed | rounds) check_number "$1" "$value" ;;
      *updates) [ -z "$value" ] || check_number "$1" "$value" ;;
      corpus | transcripts | librilight | init | more) [ -z "$value" ] || value=$(absolute "$value") ;;
    esac
    printf -v "${name//-/_}" '%s' "$value"
    shift 2
  done
  [ "$stage" -le "$stop_stage" ] ||
    die "--stage $stage comes after --stop-stage $stop_stage: there is nothing to run"
  [ -z "$init" ] || [ -f "$init/config.yaml" ] ||
    die "--init $init: is no model folder; speechssl import makes one of a published checkpoint"
}

check_number() { [[ "$2" =~ ^[0-9]+$ ]] || die "$1 needs a number, not '$2'"; }

absolute() {
  python -c 'import os, sys; os.write(1, os.fsencode(os.path.abspath(sys.argv[1])))' "$1"
}

# run_stage N "what it does" function OPTION...: runs the function once. A finished stage leaves
# $exp/done/N-<function>, which holds the values of the OPTIONS that decide what it makes; remove that
# file to run the stage again. An interrupted one resumes. A finished stage that was done with another
# seed or the like is refused; with other $lists (more rounds) it goes on with these.
run_stage() {
  local number=$1 what=$2 function=$3 mark="$exp/done/$1-$3" option
  shift 3
  if [ "$number" -gt "$stop_stage" ]; then return 0; fi
  check_finished
  if [ "$number" -lt "$stage" ]; then return 0; fi
  if [ -e "$mark" ] && [ -z "$(changed_options "$mark")" ]; then
    echo "== stage $number: $what: already done (remove $mark to run it again)"
    return 0
  fi
  echo "== stage $number: $what ($(date +%H:%M:%S))"
  stoppable "$function"
  mkdir -p "$exp/done"
  for option in "$@"; do echo "$option=$(value_of "$option")"; done > "$mark"
}

lists="systems labels clips rounds"    # options that may grow from one start to the next
sources="corpus transcripts librilight" # options that need not be given again

# Refuses to go on where a finished stage was done with other options.
check_finished() {
  local mark option before name
  for mark in "$exp"/done/*; do
    if [ ! -e "$mark" ]; then continue; fi
    while IFS='=' read -r option before; do
      if [[ " $lists " = *" $option "* ]]; then continue; fi
      name="--${option//_/-}"
      if [ -n "$before" ]; then before="with $name $before"; else before="without $name"; fi
      die "$exp: stage ${mark##*/} was done $before; go on so, or give another --exp"
    done < <(changed_options "$mark")
  done
}

# changed_options MARK: the lines of a mark (OPTION=VALUE) whose options have another value now.
changed_options() {
  local option before now
  while IFS='=' read -r option before; do
    now=$(value_of "$option")
    if [[ -z "$now" && " $sources " = *" $option "* ]]; then continue; fi
    if [ "$now" != "$before" ]; then echo "$option=$before"; fi
  done < "$1"
}

value_of() { local name="$1[*]"; echo "${!name}"; }

# stoppable COMMAND: runs it so that what stops this script (kill, Ctrl-C, a closed terminal) stops all
# that it has started too. By itself bash would wait for the command, then leave the rest running.
stoppable() {
  set -m # the command gets a process group of its own
  "$@" < /dev/null &
  set +m
  local group=$!
  trap 'stop_group INT 130' INT
  trap 'stop_group TERM 143' TERM HUP
  wait "$group"
  trap - INT TERM HUP
}

stop_group() {
  kill -s "$1" -- "-$group"
  wait "$group" || true
  kill -TERM -- "-$group" 2> /dev/null || true # what ignores Ctrl-C because it runs beside others
  exit "$2"
}

# The environment that `make setup` made, or whatever is active.
if [ -x "$root/.venv/bin/python" ]; then PATH="$root/.venv/bin:$PATH"; fi
command -v speechssl >/dev/null || die "speechssl is not installed; run \`make setup\` in $root"

num_gpus() { python -c 'import torch; print(torch.cuda.device_count())'; }
has_gpu() { [ "$(num_gpus)" -gt 0 ]; }

# pretrain ARGUMENTS: `speechssl pretrain` on all devices.
pretrain() { on_all_devices pretrain "$@"; }

# on_all_devices COMMAND ARGUMENTS: `speechssl COMMAND` with a process for each GPU; without one on
# two CPU processes of half the cores each, which is faster than one of all. The recipe's update is
# the same either way.
on_all_devices() {
  local processes threads=${OMP_NUM_THREADS:-1}
  processes=$(num_gpus)
  if [ "$processes" = 0 ] && [ "$(nproc)" -ge 2 ]; then
    processes=2
    threads=$(($(nproc) / 2))
  fi
  if [ "$processes" -lt 2 ]; then
    speechssl "$@"
  else
    OMP_NUM_THREADS=$threads python -m torch.distributed.run --standalone \
      --nproc-per-node "$processes" -m speechssl.cli.main "$@"
  fi
}

# minutes_of DATA_DIR: the minutes of transcribed training data.
minutes_of() {
  [ -f "$1/report.json" ] || die "$1: is no prepared corpus; run stage 0 first"
  python -c 'import json, sys
print(round(60 * json.load(open(sys.argv[1]))["splits"]["train"]["transcribed_hours"], 1))' "$1/report.json"
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

# decode_run RUN TRANSCRIPTS LABELLED: the test set of the corpus LABELLED greedily (test.hyps.jsonl)
# and with a model of the words that the transcribed corpus TRANSCRIPTS has (test.lm.hyps.jsonl),
# whose weights are tuned on dev; of its characters where lm_unit=character. Words that the
# transcripts do not have are spelled, unless vocabulary=closed; letters that they do not have count as
# errors.
decode_run() {
  local run=$1 train="$2/train/cuts.jsonl.gz" dev="$3/dev/cuts.jsonl.gz" test="$3/test/cuts.jsonl.gz"
  local unit=${lm_unit:-word} lm="$1/${lm_unit:-word}s.arpa" others=()
  if [ "$unit,${vocabulary:-open}" = word,open ]; then others=(--open-vocabulary); fi
  speechssl decode "$run/model" "$test" "$run/test.hyps.jsonl" --allow-unknown --overwrite
  speechssl lm "$train" "$lm" --unit "$unit" --overwrite
  speechssl tune-decoding "$run/model" "$dev" "$run/decoding.yaml" --lm "$lm" "${others[@]}" \
    --overwrite
  speechssl decode "$run/model" "$test" "$run/test.lm.hyps.jsonl" \
    --decoding "$run/decoding.yaml" --allow-unknown --overwrite
}

# self_train READER TRANSCRIBED LABELLED RECIPE OPTIONS: $rounds rounds of self-training. The
# recogniser of the run READER reads the recordings of $data/all that TRANSCRIBED does not have
# ($data/read_1); `speechssl finetune RECIPE` with OPTIONS learns from the transcripts and the most
# confident readings ($exp/self-trained-1), is decoded like any run, and reads for the next round.
# What a round has left is not made again.
self_train() {
  local reader=$1 transcribed=$2 labelled=$3 recipe=$4 round
  shift 4
  for ((round = 1; round <= rounds; round++)); do
    local corpus="$data/read_$round" run="$exp/self-trained-$round"
    if [ ! -e "$corpus/train/cuts.jsonl.gz" ]; then
      speechssl pseudo-label "$reader/model" "$data/all" "$transcribed" "$corpus" \
        --decoding "$reader/decoding.yaml"
    fi
    speechssl finetune "$recipe" "$corpus" "$run" "$@"
    if [ ! -e "$run/test.lm.hyps.jsonl" ]; then decode_run "$run" "$transcribed" "$labelled"; fi
    reader=$run
  done
}

# add_rows SYSTEM RUN MINUTES: adds to the array `rows` what tools/results.py shall score of a decoded
# run that had so many minutes of transcripts.
add_rows() {
  local row="run=$2,label_minutes=$3"
  rows+=(--row "system=$1,$row" --row "system=$1 + LM,$row,hyps=$2/test.lm.hyps.jsonl")
}

# score_systems CORPUS FIRST OTHER: scores `rows`, those of the rounds of self-training that are there
# ($minutes of transcripts), and compares the systems FIRST and OTHER, and each round with FIRST.
score_systems() {
  local corpus=$1 first=$2 other=$3 pairs=() pair compare=()
  if [ -n "$other" ]; then pairs=("$first:$other"); fi
  for ((round = 1; round <= rounds; round++)); do
    if [ -e "$exp/self-trained-$round/test.lm.hyps.jsonl" ]; then
      add_rows "self-trained-$round" "$exp/self-trained-$round" "$minutes"
      pairs+=("self-trained-$round:$first")
    fi
  done
  for pair in "${pairs[@]}"; do
    compare+=(--compare "$pair" --compare "${pair%:*} + LM:${pair#*:} + LM")
  done
  python "$root/tools/results.py" --corpus "$corpus" "${rows[@]}" "${compare[@]}" \
    --out "$exp/results.json" --comparisons "$exp/comparisons.json" --figure "$exp/results.png"
}

# show_transcripts MODEL CUTS COUNT: transcribes the first COUNT recordings of a manifest with
# `speechssl transcribe`, and with the decoding.yaml beside MODEL if there is one, and prints what was
# really said above each. Cuts that are a part of their recording are passed over.
show_transcripts() {
  local decoding
  decoding=$(dirname "$1")/decoding.yaml
  [ -f "$2" ] || die "$2: no such file; run stage 0 first"
  python - "$2" "$3" <<'PY' | while IFS=$'\t' read -r file text; do
import sys
from pathlib import Path
from speechssl.data.manifest import cut_text, load_cuts

cuts = [cut for cut in load_cuts(Path(sys.argv[1])) if cut.duration == cut.recording.duration]
for cut in cuts[: int(sys.argv[2])]:
    print(cut.recording.sources[0].source, cut_text(cut), sep="\t")
PY
    echo "file       $file"
    echo "reference  $text"
    echo "transcript $(speechssl transcribe "$1" "$file")"
    if [ -f "$decoding" ]; then
      echo "with LM    $(speechssl transcribe "$1" "$file" --decoding "$decoding")"
    fi
  done
}
