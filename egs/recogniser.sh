# From the corpora $data/all and $data/transcribed to recognisers: what stages 1 to 6 of
# egs/own/run.sh and egs/common_voice/run.sh do. They source it once their options are read (init,
# systems, pretrain_updates, finetune_updates) and result_name, of the corpus in the results, is set.

data="$exp/data"
conf="$here/conf"
start=${init:-$exp/pretrain/model}
read -ra systems <<< "$systems"

targets_stage() { speechssl label "$data/all" --name mfcc --clusters 100 --seed "$seed"; }

pretrain_stage() {
  pretrain "$conf/clusters.yaml" "$data/all" "$exp/pretrain" --targets mfcc --seed "$seed" \
    ${pretrain_updates:+training.updates="$pretrain_updates"}
}

finetune_system() {
  case "$1" in
    pretrained) local recipe=ctc from="$start" ;;
    scratch) local recipe=ctc_scratch from=none ;;
    *) die "--systems knows pretrained and scratch, not $1" ;;
  esac
  speechssl finetune "$conf/$recipe.yaml" "$data/transcribed" "$exp/$1" --init "$from" \
    --seed "$seed" ${finetune_updates:+training.updates="$finetune_updates"}
}

finetune_stage() { side_by_side finetune_system "${systems[@]}"; }

# Letters that the transcripts to train on do not have count as errors.
decode_stage() {
  for system in "${systems[@]}"; do
    speechssl decode "$exp/$system/model" "$data/transcribed/test/cuts.jsonl.gz" \
      "$exp/$system/test.hyps.jsonl" --allow-unknown --overwrite
  done
}

score_stage() {
  local rows=() compare=() minutes
  minutes=$(minutes_of "$data/transcribed")
  for system in "${systems[@]}"; do
    rows+=(--row "system=$system,run=$exp/$system,label_minutes=$minutes")
  done
  if [ ${#systems[@]} -gt 1 ]; then compare=(--compare "${systems[0]}:${systems[1]}"); fi
  python "$root/tools/results.py" --corpus "$result_name" "${rows[@]}" "${compare[@]}" \
    --out "$exp/results.json" --comparisons "$exp/comparisons.json" --figure "$exp/results.png"
}

transcribe_stage() {
  show_transcripts "$exp/${systems[0]}/model" "$data/transcribed/test/cuts.jsonl.gz" 3
}
