# From the corpora $data/all and $data/transcribed to recognisers: what stages 1 to 7 of
# egs/own/run.sh and egs/common_voice/run.sh do. They source it once their options are read (init,
# systems, pretrain_updates, finetune_updates, rounds, language) and result_name, of the corpus in the
# results, is set.

data="$exp/data"
conf="$here/conf"
start=${init:-$exp/pretrain/model}
read -ra systems <<< "$systems"
[ ${#systems[@]} -gt 0 ] || die "--systems is empty; it knows pretrained and scratch"
for system in "${systems[@]}"; do
  [[ "$system" =~ ^(pretrained|scratch)$ ]] ||
    die "--systems knows pretrained and scratch, not $system"
done

targets_stage() { speechssl label "$data/all" --name mfcc --clusters 100 --seed "$seed"; }

pretrain_stage() {
  pretrain "$conf/clusters.yaml" "$data/all" "$exp/pretrain" --targets mfcc --seed "$seed" \
    ${pretrain_updates:+training.updates="$pretrain_updates"}
}

finetune_system() {
  case "$1" in
    pretrained) local recipe=ctc from="$start" ;;
    scratch) local recipe=ctc_scratch from=none ;;
  esac
  speechssl finetune "$conf/$recipe.yaml" "$data/transcribed" "$exp/$1" --init "$from" \
    --seed "$seed" ${finetune_updates:+training.updates="$finetune_updates"}
}

finetune_stage() { side_by_side finetune_system "${systems[@]}"; }

# Languages written without spaces have no words to count.
case "$language" in zh* | yue* | ja* | th* | lo* | km* | my*) lm_unit=character ;; esac

decode_system() { decode_run "$exp/$1" "$data/transcribed" "$data/transcribed"; }

decode_stage() { side_by_side decode_system "${systems[@]}"; }

score_stage() {
  local rows=() minutes
  minutes=$(minutes_of "$data/transcribed")
  for system in "${systems[@]}"; do add_rows "$system" "$exp/$system" "$minutes"; done
  score_systems "$result_name" "${systems[0]}" "${systems[1]:-}"
}

transcribe_stage() {
  show_transcripts "$exp/${systems[0]}/model" "$data/transcribed/test/cuts.jsonl.gz" 3
}

self_training_stage() {
  self_train "$exp/${systems[0]}" "$data/transcribed" "$data/transcribed" "$conf/ctc.yaml" \
    --init "$start" --seed "$seed" ${finetune_updates:+training.updates="$finetune_updates"}
  score_stage
}
