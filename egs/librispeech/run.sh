#!/usr/bin/env bash
# The published recipes on LibriSpeech: wav2vec 2.0 base, or HuBERT base in two iterations,
# pretrained on 960 hours, fine-tuned on 10 minutes to 960 hours of transcripts. Months on one GPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

stage=0 stop_stage=6 corpus="" exp="$here/exp" seed=1
method=wav2vec2 labels="10min 1h 10h 100h 960h" librilight="" init=""

usage() {
  cat <<EOF
usage: egs/librispeech/run.sh --corpus DIR [--librilight DIR] [--method wav2vec2|hubert]
                              [--labels LIST] [--init MODEL]
                              [--stage N] [--stop-stage M] [--exp DIR] [--seed S]

  --corpus                folder of LibriSpeech, with train-clean-100/ and so on
  --librilight            folder of Libri-Light's limited sets (librispeech_finetuning), for the
                          labels 10min, 1h and 10h
  --method                wav2vec2 (default) or hubert
  --labels                what is fine-tuned on (default "10min 1h 10h 100h 960h")
  --init                  a model folder to fine-tune from (\`speechssl import\` makes one of a
                          published checkpoint); stages 1 and 2 are then skipped
  --stage, --stop-stage   first and last stage to run (0 to 6)
  --exp                   where everything is written (default egs/librispeech/exp)
  --seed                  seed of clusters, weights, batches and masks (default 1)

Stages: 0 corpus, 1 targets (hubert), 2 pretrain, 3 fine-tune, 4 decode test-clean and test-other,
5 score, 6 transcribe held-out recordings.

example: egs/librispeech/run.sh --corpus /data/LibriSpeech \\
           --librilight /data/librispeech_finetuning --method hubert --labels "10min 100h"
EOF
}

source "$here/../steps.sh"
options+=" method labels librilight init"
parse_options "$@"
[ -n "$corpus" ] || [ "$stage" -gt 0 ] || die "--corpus is needed: the folder of LibriSpeech"
[[ "$method" =~ ^(wav2vec2|hubert)$ ]] || die "--method is wav2vec2 or hubert, not $method"
read -ra labels <<< "$labels"
for label in "${labels[@]}"; do
  [ -f "$here/conf/ctc_$label.yaml" ] || die "--labels knows 10min, 1h, 10h, 100h, 960h, not $label"
  if [[ "$label" =~ ^(10min|1h|10h)$ && "$stage" = 0 && -z "$librilight" ]]; then
    die "--librilight is needed for $label: the folder librispeech_finetuning"
  fi
done

data="$exp/data" conf="$here/conf" runs="$exp/$method"
start=${init:-$runs/pretrain/model}

corpus_stage() {
  local held=(--dev dev-other --test test-clean --jobs "$(nproc)")
  local prepare=(python "$root/tools/prepare_librispeech.py" --corpus "$corpus")
  "${prepare[@]}" "$data/960h" "${held[@]}"
  "${prepare[@]}" "$data/other" --train "" --dev "" --test test-other --jobs "$(nproc)"
  for label in "${labels[@]}"; do
    case "$label" in
      960h) ;;
      100h) "${prepare[@]}" "$data/100h" --train train-clean-100 "${held[@]}" ;;
      *)
        python "$root/tools/prepare_librilight.py" "$data/$label" --limited "$label" \
          --corpus "$librilight" --librispeech "$corpus" "${held[@]}"
        ;;
    esac
  done
}

# 39 numbers per frame, as in the paper: MFCC with first and second differences.
targets_stage() {
  if [ "$method" = hubert ]; then
    speechssl label "$data/960h" --name mfcc --clusters 100 --seed "$seed"
  fi
}

pretrain_stage() {
  if [ "$method" = wav2vec2 ]; then
    pretrain "$conf/wav2vec2.yaml" "$data/960h" "$runs/pretrain" --seed "$seed"
  else
    pretrain "$conf/hubert_1.yaml" "$data/960h" "$runs/iteration_1" --targets mfcc --seed "$seed"
    if [ ! -e "$runs/labelled" ]; then
      speechssl label "$data/960h" --name layer6 --clusters 500 --seed "$seed" --overwrite \
        --features model --model "$runs/iteration_1/model" --layer 6
      touch "$runs/labelled"
    fi
    pretrain "$conf/hubert_2.yaml" "$data/960h" "$runs/pretrain" --targets layer6 --seed "$seed"
  fi
}

finetune_stage() {
  local recipe
  for label in "${labels[@]}"; do
    recipe="$conf/ctc_${label}_$method.yaml"
    [ -f "$recipe" ] || recipe="$conf/ctc_$label.yaml"
    on_all_devices finetune "$recipe" "$data/$label" "$runs/$label" --init "$start" --seed "$seed"
  done
}

# Letters that minutes of transcripts do not have count as errors.
decode_stage() {
  for label in "${labels[@]}"; do
    speechssl decode "$runs/$label/model" "$data/960h/test/cuts.jsonl.gz" \
      "$runs/$label/test.hyps.jsonl" --allow-unknown --overwrite
    speechssl decode "$runs/$label/model" "$data/other/test/cuts.jsonl.gz" \
      "$runs/$label/test_other.hyps.jsonl" --allow-unknown --overwrite
  done
}

score_stage() {
  local rows=()
  for label in "${labels[@]}"; do
    echo "$label, test-other:"
    speechssl score "$runs/$label/test_other.hyps.jsonl"
    rows+=(--row "system=$method,run=$runs/$label,label_minutes=$(minutes_of "$data/$label")")
  done
  python "$root/tools/results.py" --corpus librispeech_test_clean "${rows[@]}" \
    --out "$runs/results.json" --figure "$runs/results.png"
}

transcribe_stage() {
  show_transcripts "$runs/${labels[0]}/model" "$data/960h/test/cuts.jsonl.gz" 3
}

exp=$runs # each method marks its own stages; the corpus that both share is prepared once anyway
run_stage 0 "corpus" corpus_stage corpus librilight labels
if [ -z "$init" ]; then
  run_stage 1 "cluster targets" targets_stage seed
  run_stage 2 "pretraining" pretrain_stage seed
fi
run_stage 3 "fine-tuning" finetune_stage seed init labels
run_stage 4 "decoding" decode_stage labels
run_stage 5 "scores" score_stage labels
run_stage 6 "transcribing held-out recordings" transcribe_stage
