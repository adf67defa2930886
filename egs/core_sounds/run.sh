#!/usr/bin/env bash
# From five languages of untranscribed telephone prompts and ten minutes of English transcripts
# to an English recogniser, beside the same network trained from scratch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

stage=0 stop_stage=6 corpus="" exp="$here/exp" seed=1

usage() {
  cat <<EOF
usage: egs/core_sounds/run.sh [--stage N] [--stop-stage M] [--corpus DIR] [--exp DIR] [--seed S]

  --stage, --stop-stage   first and last stage to run (0 to 6)
  --corpus                folder with the Asterisk core sounds (.deb, .tar.gz or unpacked); they
                          are downloaded when it is not given
  --exp                   where everything is written (default egs/core_sounds/exp)
  --benchmark             instead of the stages: every objective against none (egs/benchmark.sh),
                          with --objectives "clusters best_rq" (default all of them),
                          --label-minutes "4 10 20 all", --seeds "1 2 3", --equal audio|time,
                          --updates N of pretraining, --finetune-updates N; and over hours of
                          recordings
                          --objectives "clusters@10 clusters clusters@more" --more DATA_DIR
  --seed                  seed of clusters, weights, batches and masks (default 1)

Stages: 0 corpus, 1 targets, 2 pretrain, 3 fine-tune (pretrained and from scratch), 4 decode,
5 score, 6 transcribe held-out prompts.

example: egs/core_sounds/run.sh --exp /data/exp/core_sounds --seed 2
EOF
}

source "$here/../steps.sh"
objectives=all label_minutes="4 10 20 all" seeds="1 2 3" equal=audio
updates="" finetune_updates="" more=""
options+=" objectives label-minutes seeds equal updates finetune-updates more"
parse_options "$@"

data="$exp/data" minutes=10
conf="$here/conf" labelled="$data/en" ctc="$here/conf/ctc"

corpus_stage() {
  local source=(--download "$exp/download")
  if [ -n "$corpus" ]; then source=(--source "$corpus"); fi
  python "$root/tools/prepare_core_sounds.py" "$data/all" "${source[@]}"
  python "$root/tools/prepare_core_sounds.py" "$data/en" --languages en "${source[@]}"
  python "$root/tools/subset.py" "$data/en" "$data/en_${minutes}min" --minutes $minutes --seed 0
}

targets_stage() { speechssl label "$data/all" --name mfcc --clusters 100 --seed "$seed"; }

pretrain_stage() {
  pretrain "$conf/clusters.yaml" "$data/all" "$exp/pretrain" --targets mfcc --seed "$seed"
}

finetune_system() {
  case "$1" in
    pretrained) local recipe=ctc init="$exp/pretrain/model" ;;
    scratch) local recipe=ctc_scratch init=none ;;
  esac
  speechssl finetune "$conf/$recipe.yaml" "$data/en_${minutes}min" "$exp/$1" \
    --init "$init" --seed "$seed"
}

finetune_stage() { side_by_side finetune_system pretrained scratch; }

decode_system() { decode_run "$exp/$1" "$data/en_${minutes}min" "$data/en"; }

decode_stage() { side_by_side decode_system pretrained scratch; }

score_stage() {
  local rows=()
  for system in pretrained scratch; do add_rows "$system" "$exp/$system" "$minutes"; done
  score_systems core_sounds_en pretrained scratch
}

transcribe_stage() { show_transcripts "$exp/pretrained/model" "$data/en/test/cuts.jsonl.gz" 3; }

if [ "$benchmark" = yes ]; then
  references=()
  source "$here/../benchmark.sh"
  exit
fi

run_stage 0 "corpus" corpus_stage corpus
run_stage 1 "cluster targets" targets_stage seed
run_stage 2 "pretraining" pretrain_stage seed
run_stage 3 "fine-tuning, pretrained and from scratch" finetune_stage seed
run_stage 4 "decoding" decode_stage
run_stage 5 "scores" score_stage
run_stage 6 "transcribing held-out prompts" transcribe_stage
