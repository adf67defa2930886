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
                      [--rounds R] [--finetune-updates N]

  --stage, --stop-stage   first and last stage to run (default 0 and 6; 7 exists)
  --corpus                folder of the AN4 corpus (with etc/ and wav/); downloaded from its public
                          repository when it is not given
  --exp                   where everything is written (default egs/an4/exp)
  --benchmark             instead of the stages: every objective against none (egs/benchmark.sh),
                          with --objectives "clusters best_rq" (default all of them),
                          --label-minutes "4 10 20 all", --seeds "1 2 3", --equal audio|time,
                          --updates N of pretraining, --finetune-updates N; and over hours of
                          recordings
                          --objectives "clusters@10 clusters clusters@more" --more DATA_DIR
  --seed                  seed of clusters, weights, batches and masks (default 1)
  --rounds                rounds of self-training (default 2)
  --finetune-updates      updates of every fine-tuning (default: the recipe's 3,200; 6400 takes twice
                          the time and leaves fewer errors, see RESULTS.md)

Stages: 0 corpus, 1 targets, 2 pretrain, 3 fine-tune (pretrained and from scratch, 10 minutes and
all transcripts), 4 decode, 5 score, 6 transcribe held-out recordings; with --stop-stage 7 also
7 self-training of the pretrained system of 10 minutes, and all scores again.

example: egs/an4/run.sh --corpus /data/an4 --exp /data/exp/an4
EOF
}

source "$here/../steps.sh"
objectives=all label_minutes="4 10 20 all" seeds="1 2 3" equal=audio
updates="" finetune_updates="" more=""
options+=" rounds objectives label-minutes seeds equal updates finetune-updates more"
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
  speechssl finetune "$conf/$recipe.yaml" "$data/$labels" "$exp/$1" --init "$init" --seed "$seed" \
    ${finetune_updates:+training.updates="$finetune_updates"}
}

finetune_stage() { side_by_side finetune_system "${systems[@]}"; }

decode_system() { decode_run "$exp/$1" "$data/${1#*_}" "$data/all"; }

decode_stage() { side_by_side decode_system "${systems[@]}"; }

score_stage() {
  local rows=() run all_minutes
  all_minutes=$(minutes_of "$data/all")
  for run in "${systems[@]}"; do
    case "${run#*_}" in
      all) add_rows "${run%%_*}" "$exp/$run" "$all_minutes" ;;
      *) add_rows "${run%%_*}" "$exp/$run" "$minutes" ;;
    esac
  done
  score_systems an4 pretrained scratch
}

transcribe_stage() {
  show_transcripts "$exp/pretrained_all/model" "$data/all/test/cuts.jsonl.gz" 3
}

self_training_stage() {
  self_train "$exp/pretrained_${minutes}min" "$data/${minutes}min" "$data/all" \
    "$conf/ctc_${minutes}min.yaml" --init "$exp/pretrain/model" --seed "$seed" \
    ${finetune_updates:+training.updates="$finetune_updates"}
  score_stage
}

if [ "$benchmark" = yes ]; then
  references=(--reference "Kaldi tri3=5.95" --reference "ESPnet2 Transformer=7.4")
  source "$here/../benchmark.sh"
  exit
fi

run_stage 0 "corpus" corpus_stage corpus
run_stage 1 "cluster targets" targets_stage seed
run_stage 2 "pretraining" pretrain_stage seed
run_stage 3 "fine-tuning, pretrained and from scratch" finetune_stage seed finetune_updates
run_stage 4 "decoding" decode_stage
run_stage 5 "scores" score_stage
run_stage 6 "transcribing held-out recordings" transcribe_stage
run_stage 7 "self-training, and all scores" self_training_stage seed finetune_updates rounds
