# What pretraining is worth: every objective against none, over minutes of transcripts and seeds.
# `egs/<corpus>/run.sh --benchmark` sources it. It needs the function corpus_stage and the variables
# data, labelled (the transcribed corpus below $data), ctc (the fine-tuning recipes $ctc.yaml and
# ${ctc}_scratch.yaml) and references (of the figure).
#
# The systems share network, updates and batches (recipes/*_tiny.yaml), so all objectives have seen
# equal seconds of audio; with --equal time each gets as many updates as fit the time that `clusters`
# took for its own. Pretraining has one seed, fine-tuning several. An interrupted benchmark goes on
# where it was; more objectives, minutes or seeds are added by naming them.
#
# The language model writes only the words of the transcripts, which is quicker.
#
# OBJECTIVE@CORPUS pretrains on other recordings: @10 on those of the ten minutes of transcripts, @more
# on all and those of the prepared corpus that --more names. A second figure then shows the error rate
# over hours of recordings.

vocabulary=closed
fold="$exp/benchmark"
if [ "$equal" = time ]; then fold="$exp/benchmark_time"; fi
[[ "$equal" =~ ^(audio|time)$ ]] || die "--equal is audio or time"
if [ "$objectives" = all ]; then
  objectives=""
  for recipe in "$root"/recipes/*_tiny.yaml; do
    name=$(basename "$recipe" _tiny.yaml)
    case "$name" in ctc | continued* | speech_text | utterance_contrastive) ;; *) objectives+=" $name" ;; esac
  done
fi

for objective in $objectives; do
  [ -f "$root/recipes/${objective%@*}_tiny.yaml" ] ||
    die "--objectives: there is no recipes/${objective%@*}_tiny.yaml"
  [[ "$objective" != *@more || -n "$more" ]] || die "$objective needs --more, a prepared corpus"
done

# The settings of a run of so many updates, which is validated at its end alone; none where the
# recipe's own are wanted. A recipe validates when it reports, every 50 updates, and always at the end.
run_of() {
  if [ -n "$1" ]; then
    echo "training.updates=$1" "training.validate_every=$((($1 + 49) / 50 * 50))"
  fi
}

# Updates of pretraining; empty for the recipe's own. Fails where there is no time to compare with.
updates_for() {
  if [ "$equal" = audio ]; then echo "$updates"; return; fi
  for run in clusters "$1"; do
    [ -e "$exp/benchmark/pretrain_$run/model" ] ||
      die "--equal time needs the time of $run; run the benchmark of it with --equal audio first"
  done
  python - "$exp/benchmark/pretrain_clusters" "$exp/benchmark/pretrain_$1" <<'PY'
import sys
from pathlib import Path
from speechssl.training.curves import read_metrics

reference, own = (read_metrics(Path(run), "train")[-1] for run in sys.argv[1:])
updates = own["Step"] * reference["total_time"] / own["total_time"]
print(max(50, 50 * round(updates / 50)))
PY
}

# The corpus that OBJECTIVE or OBJECTIVE@CORPUS is pretrained on.
recordings_of() {
  case "$1" in
    *@more) echo "$data/more" ;;
    *@*) transcripts "${1#*@}" ;;
    *) echo "$data/all" ;;
  esac
}

# Makes that corpus, and its targets.
prepare_recordings() {
  case "$1" in
    *@more)
      python "$root/tools/combine.py" "$data/more" "$data/all" "$more"
      ;;
    *@*) take_transcripts "${1#*@}" ;;
  esac
  case "$1" in
    clusters*) speechssl label "$(recordings_of "$1")" --name mfcc --clusters 100 --seed "$seed" ;;
  esac
}

pretrain_objective() {
  local objective=${1%@*} overrides=() targets=() count
  count=$(updates_for "$1")
  read -ra overrides <<<"$(run_of "$count")"
  case "$objective" in clusters*) targets=(--targets mfcc) ;; esac
  speechssl pretrain "$root/recipes/${objective}_tiny.yaml" "$(recordings_of "$1")" \
    "$fold/pretrain_$1" "${targets[@]}" --seed "$seed" "${overrides[@]}"
}

# The corpus with so many minutes of transcripts.
transcripts() { if [ "$1" = all ]; then echo "$labelled"; else echo "$data/transcripts_$1"; fi; }

take_transcripts() {
  if [ "$1" = all ]; then return; fi
  python "$root/tools/subset.py" "$labelled" "$(transcripts "$1")" --minutes "$1" --seed 0
}

# SYSTEM-MINUTES-SEED, as in clusters-10-1 and scratch-all-3.
finetune_and_decode() {
  local system minutes number init=none recipe="${ctc}_scratch.yaml" run="$fold/$1" overrides=()
  read -ra overrides <<<"$(run_of "$finetune_updates")"
  IFS=- read -r system minutes number <<<"$1"
  if [ "$system" != scratch ]; then
    recipe="$ctc.yaml" init="$fold/pretrain_$system/model"
  fi
  speechssl finetune "$recipe" "$(transcripts "$minutes")" "$run" --init "$init" --seed "$number" \
    "${overrides[@]}"
  if [ ! -e "$run/test.lm.hyps.jsonl" ]; then
    decode_run "$run" "$(transcripts "$minutes")" "$labelled"
  fi
}

# score_benchmark DECODING HYPOTHESES RUN...: results.DECODING.json, a table and a figure.
score_benchmark() {
  local decoding=$1 hyps=$2 rows=() pairs=() run system minutes number
  shift 2
  for run in "$@"; do
    IFS=- read -r system minutes number <<<"$run"
    if [ "$minutes" = all ]; then minutes=$(minutes_of "$labelled"); fi
    rows+=(--row "system=$system,run=$fold/$run,hyps=$fold/$run/$hyps,label_minutes=$minutes")
  done
  for system in $objectives; do pairs+=(--compare "$system:scratch"); done
  python "$root/tools/results.py" --corpus "$(basename "$here")" "${rows[@]}" "${pairs[@]}" \
    --out "$fold/results.$decoding.json" --comparisons "$fold/comparisons.$decoding.json"
  python "$root/tools/label_efficiency.py" "$fold/results.$decoding.json" \
    "$fold/label_efficiency.$decoding.png" \
    --title "$(basename "$here"), equal $equal, $decoding" "${references[@]}"
  if [[ "$objectives" = *@* ]]; then
    python "$root/tools/label_efficiency.py" "$fold/results.$decoding.json" \
      "$fold/recordings.$decoding.png" --over recordings --title "$(basename "$here"), $decoding"
  fi
}

run_stage 0 "corpus" corpus_stage corpus
for minutes in $label_minutes; do take_transcripts "$minutes"; done
for objective in $objectives; do prepare_recordings "$objective"; done
echo "== pretraining: $objectives"
stoppable side_by_side pretrain_objective $objectives
systems=()
for minutes in $label_minutes; do
  for number in $seeds; do
    for system in scratch $objectives; do systems+=("$system-$minutes-$number"); done
  done
done
echo "== fine-tuning: ${#systems[@]} systems"
stoppable side_by_side finetune_and_decode "${systems[@]}"
score_benchmark greedy test.hyps.jsonl "${systems[@]}"
score_benchmark lm test.lm.hyps.jsonl "${systems[@]}"
