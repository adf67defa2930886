#!/usr/bin/env bash
# From one language of Mozilla Common Voice to a recogniser of it: pretrained on all clips, checked
# or not, or started from a model that is there already, beside the same network from scratch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

stage=0 stop_stage=6 corpus="" exp="" seed=1
language="" init="" systems="pretrained scratch" pretrain_updates="" finetune_updates=""

usage() {
  cat <<EOF
usage: egs/common_voice/run.sh --language CODE --corpus DIR [--init MODEL] [--systems LIST]
                               [--pretrain-updates N] [--finetune-updates N] [--rounds R]
                               [--stage N] [--stop-stage M] [--exp DIR] [--seed S]

  --language              code of the language, as sw or zh-CN
  --corpus                the unpacked release (cv-corpus-...), or the folder of the language in it;
                          download it from https://commonvoice.mozilla.org/datasets
  --init                  a model folder to fine-tune from (\`speechssl import\` makes one of a
                          published checkpoint); stages 1 and 2 are then skipped
  --systems               what is fine-tuned (default "pretrained scratch")
  --pretrain-updates, --finetune-updates
                          length of training (default: what conf/ says)
  --stage, --stop-stage   first and last stage to run (default 0 and 6; 7 exists)
  --exp                   where everything is written (default egs/common_voice/exp/CODE)
  --seed                  seed of clusters, weights, batches and masks (default 1)
  --rounds                rounds of self-training (default 2)

Stages: 0 corpus, 1 targets, 2 pretrain, 3 fine-tune, 4 decode, 5 score, 6 transcribe held-out
clips; with --stop-stage 7 also 7 self-training on the other clips, and all scores again. Languages
written without spaces (zh-CN, ja) are compared by their CER.

example: egs/common_voice/run.sh --language sw --corpus /data/cv-corpus-17.0-2024-03-15
EOF
}

source "$here/../steps.sh"
options+=" language init systems pretrain-updates finetune-updates rounds"
parse_options "$@"
[ -n "$language" ] || die "--language is needed, as sw or zh-CN"
[ -n "$corpus" ] || [ "$stage" -gt 0 ] || die "--corpus is needed: the folder of Common Voice"
exp=${exp:-$here/exp/$language}
result_name="common_voice_$language"
source "$here/../recogniser.sh"

# The clips that are prepared: all of them serve pretraining and self-training.
clips=transcribed
if [ -z "$init" ] || [ "$stop_stage" -ge 7 ]; then clips="transcribed all"; fi

corpus_stage() {
  local prepare=(python "$root/tools/prepare_common_voice.py" --language "$language"
    --corpus "$corpus" --jobs "$(nproc)")
  "${prepare[@]}" "$data/transcribed"
  if [ "$clips" != transcribed ]; then "${prepare[@]}" "$data/all" --validated --other; fi
}

run_stage 0 "corpus" corpus_stage corpus language clips
if [ -z "$init" ]; then
  run_stage 1 "cluster targets" targets_stage seed
  run_stage 2 "pretraining" pretrain_stage seed pretrain_updates
fi
run_stage 3 "fine-tuning" finetune_stage seed init systems finetune_updates
run_stage 4 "decoding" decode_stage language systems
run_stage 5 "scores" score_stage systems
run_stage 6 "transcribing held-out clips" transcribe_stage
run_stage 7 "self-training, and all scores" self_training_stage seed init finetune_updates rounds
