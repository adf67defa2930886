#!/usr/bin/env bash
# From a folder of one's own recordings, some of them transcribed, to a recogniser: pretrained on
# all of them, or started from a model that is there already, beside the same network from scratch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

stage=0 stop_stage=6 corpus="" exp="$here/exp" seed=1
transcripts="" language="" init="" systems="pretrained scratch"
pretrain_updates="" finetune_updates=""

usage() {
  cat <<EOF
usage: egs/own/run.sh --corpus DIR [--transcripts TABLE] [--language CODE] [--init MODEL]
                      [--systems LIST] [--pretrain-updates N] [--finetune-updates N] [--rounds R]
                      [--stage N] [--stop-stage M] [--exp DIR] [--seed S]

  --corpus                folder of recordings: any rate, any channels, most formats
  --transcripts           table of their transcripts (.tsv, .csv or .jsonl with columns for file and
                          text); without it .txt, .srt or .vtt files beside the audio are read
  --language              code of the language, as en or pt-BR: digits become words
  --init                  a model folder to fine-tune from (\`speechssl import\` makes one of a
                          published checkpoint); stages 1 and 2 are then skipped
  --systems               what is fine-tuned (default "pretrained scratch")
  --pretrain-updates, --finetune-updates
                          length of training (default: what conf/ says)
  --stage, --stop-stage   first and last stage to run (default 0 and 6; 7 exists)
  --exp                   where everything is written (default egs/own/exp)
  --seed                  seed of clusters, weights, batches and masks (default 1)
  --rounds                rounds of self-training (default 2)

Stages: 0 corpus, 1 targets, 2 pretrain, 3 fine-tune, 4 decode, 5 score, 6 transcribe held-out
recordings; with --stop-stage 7 also 7 self-training on what has no transcript, and all scores again.

example: egs/own/run.sh --corpus ~/recordings --transcripts ~/recordings/texts.tsv --language sw
EOF
}

source "$here/../steps.sh"
options+=" transcripts language init systems pretrain-updates finetune-updates rounds"
parse_options "$@"
[ -n "$corpus" ] || [ "$stage" -gt 0 ] || die "--corpus is needed: the folder of your recordings"

result_name=own
source "$here/../recogniser.sh"

corpus_stage() {
  local more=()
  if [ -n "$transcripts" ]; then more+=(--transcripts "$transcripts"); fi
  if [ -n "$language" ]; then more+=(--language "$language"); fi
  python "$root/tools/prepare_folder.py" "$corpus" "$data/all" "${more[@]}"
  python "$root/tools/subset.py" "$data/all" "$data/transcribed"
}

run_stage 0 "corpus" corpus_stage corpus transcripts language
if [ -z "$init" ]; then
  run_stage 1 "cluster targets" targets_stage seed
  run_stage 2 "pretraining" pretrain_stage seed pretrain_updates
fi
run_stage 3 "fine-tuning" finetune_stage seed init systems finetune_updates
run_stage 4 "decoding" decode_stage language systems
run_stage 5 "scores" score_stage systems
run_stage 6 "transcribing held-out recordings" transcribe_stage
run_stage 7 "self-training, and all scores" self_training_stage seed init finetune_updates rounds
