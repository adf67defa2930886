#!/usr/bin/env bash
# From the CMU AN4 recordings to recognisers with 10 minutes of transcripts and with all of them,
# each from the pretrained encoder and from scratch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

stage=0 stop_stage=6 corpus="" exp="$here/exp" seed=1

usage() {
  cat <<EOF
usage: egs/an4/run.sh [--stage N] [--stop-stage M] [--corpus DIR] [--exp DIR] [--seed S]

  --stage, --stop-stage   first and last stage to run (0 to 6)
  --corpus                folder of the AN4 corpus (with etc/ and wav/); downloaded from its public
                          repository when it is not given
  --exp                   where everything is written (default egs/an4/exp)
  --benchmark             instead of the stages: every objective against none (egs/benchmark.sh),
                          with --objectives "clusters best_rq", --label-minutes "4 10 20 all",
                          --seeds "1 2 3", --equal audio|time, --updates N of pretraining,
                          --finetune-updates N; and over hours of recordings
                          --objectives "clusters@10 clusters clusters@more" --more DATA_DIR
  --seed                  seed of clusters, weights, batches and masks (default 1)

Stages: 0 corpus, 1 targets, 2 pretrain, 3 fine-tune (pretrained and from scratch, 10 minutes and
all transcripts), 4 decode, 5 score, 6 transcribe held-out recordings.

example: egs/an4/run.sh --corpus /data/an4 --exp /data/exp/an4
EOF
}

source "$here/../steps.sh"
objectives=all label_minutes="4 10 20 all" seeds="1 2 3" equal=audio
updates="" finetune_updates="" more=""
options+=" objectives label-minutes seeds equal updates finetune-updates more"
parse_options "$@"

data="$exp/data" minutes=10
conf="$here/conf" labelled="$data/all" ctc="$here/conf/ctc_10min"

corpus_stage() {
  local source=()
  if [ -n "$corpus" ]; then source=(--corpus "$corpus"); fi
  python "$root/tools/prepare_an4.py" "$data/all" "${source[@]}"
  python "$root/tools/subset.py" "$data/all" "$data/${minutes}min" --minutes $minutes --seed 0
}

targets_stage() { speechssl label "$data/all" --name mfcc --clusters 100 --seed "$seed"; }

pretrain_stage() {
  pretrain "$conf/clusters.yaml" "$data/all" "$exp/pretrain" --targets mfcc --seed "$seed"
}

systems=("pretrained_${minutes}min" "scratch_${minutes}min" pretrained_all scratch_all)

finetune_system() {
  local start=${1%%_*} labels=${1#*_}
  case "$start" in
    pretrained) local recipe="ctc_$labels" init="$exp/pretrain/model" ;;
    scratch) local recipe="ctc_${labels}_scratch" init=none ;;
  esac
  speechssl finetune "$conf/$recipe.yaml" "$data/$labels" "$exp/$1" --init "$init" --seed "$seed"
}

finetune_stage() { side_by_side finetune_system "${systems[@]}"; }

decode_stage() {
  for system in "${systems[@]}"; do
    decode_run "$exp/$system" "$data/${system#*_}" "$data/all"
  done
}

score_stage() {
  local rows=() all_minutes
  all_minutes=$(minutes_of "$data/all")
  for system in pretrained scratch; do
    for labels in "${minutes}min" all; do
      local run="$exp/${system}_$labels" spent=$minutes
      if [ "$labels" = all ]; then spent=$all_minutes; fi
      rows+=(--row "system=$system,run=$run,label_minutes=$spent")
      rows+=(--row "system=$system + LM,run=$run,hyps=$run/test.lm.hyps.jsonl,label_minutes=$spent")
    done
  done
  python "$root/tools/results.py" --corpus an4 "${rows[@]}" \
    --compare pretrained:scratch --compare "pretrained + LM:scratch + LM" \
    --out "$exp/results.json" --comparisons "$exp/comparisons.json" --figure "$exp/results.png"
}

transcribe_stage() {
  show_transcripts "$exp/pretrained_all/model" "$data/all/test/cuts.jsonl.gz" 3
}

if [ "$benchmark" = yes ]; then
  references=(--reference "Kaldi tri3=5.95" --reference "ESPnet2 Transformer=7.4")
  source "$here/../benchmark.sh"
  exit
fi

run_stage 0 "corpus" corpus_stage
run_stage 1 "cluster targets" targets_stage
run_stage 2 "pretraining" pretrain_stage
run_stage 3 "fine-tuning, pretrained and from scratch" finetune_stage
run_stage 4 "decoding" decode_stage
run_stage 5 "scores" score_stage
run_stage 6 "transcribing held-out recordings" transcribe_stage
