import itertools
import json
import math

import jiwer
import numpy as np
import pytest

from speechssl.hypotheses import HypothesesError, Hypothesis, read_hypotheses, write_hypotheses
from speechssl.scoring import compare, score
from speechssl.significance import bootstrap, randomisation_p_value

VOCABULARY = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "и", "по", "कि"]


def random_system(seed: int, utterances: int = 40, error_rate: float = 0.3) -> list[Hypothesis]:
    """The references are the same for every seed; each word is kept, replaced, lost or doubled."""
    references = np.random.default_rng(99)
    errors = np.random.default_rng(seed)
    hypotheses = []
    for i in range(utterances):
        words = references.choice(VOCABULARY, size=references.integers(1, 9)).tolist()
        heard: list[str] = []
        for word in words:
            edit = errors.choice(["keep", "swap", "drop", "double"], p=_shares(error_rate))
            heard += {
                "keep": [word],
                "swap": [str(errors.choice(VOCABULARY))],
                "drop": [],
                "double": [word, word],
            }[edit]
        hypotheses.append(Hypothesis(f"u{i}", " ".join(heard), " ".join(words), 1.0))
    return hypotheses


def _shares(error_rate: float) -> list[float]:
    return [1 - error_rate] + [error_rate / 3] * 3


# --- counts ----------------------------------------------------------------------------------


def test_counts_by_hand():
    result = score(
        [
            Hypothesis("a", "the cat sat mat", "the cat sat on"),  # 1 substitution
            Hypothesis("b", "one three", "one two three"),  # 1 deletion
            Hypothesis("c", "yes yes no", "yes no"),  # 1 insertion
        ]
    )
    words = result.words
    assert (words.hits, words.substitutions, words.deletions, words.insertions) == (7, 1, 1, 1)
    assert words.length == 9
    assert result.wer == 3 / 9
    # a: "on" -> "mat" is 3 edits, b: "two " lost is 4, c: "yes " doubled is 4.
    assert result.characters.errors == 11
    assert result.characters.length == len("the cat sat on" + "one two three" + "yes no")
    assert result.cer == 11 / 33


def test_totals_equal_jiwer():
    hypotheses = random_system(1)
    result = score(hypotheses)
    references, texts = [h.reference for h in hypotheses], [h.text for h in hypotheses]
    words = jiwer.process_words(references, texts)
    assert result.wer == pytest.approx(words.wer)
    assert result.cer == pytest.approx(jiwer.cer(references, texts))
    assert result.words.substitutions == words.substitutions
    assert result.words.deletions == words.deletions
    assert result.words.insertions == words.insertions
    for utterance in result.utterances:
        assert utterance.words.rate == pytest.approx(jiwer.wer(utterance.reference, utterance.text))


def test_empty_hypothesis_and_empty_reference():
    result = score([Hypothesis("a", "", "one two"), Hypothesis("b", "three four five", "")])
    assert (result.words.deletions, result.words.insertions) == (2, 3)
    assert result.words.length == 2
    assert result.wer == 2.5
    assert math.isinf(result.utterances[1].words.rate)


def test_to_dict_is_json():
    numbers = json.loads(json.dumps(score(random_system(1)).to_dict()))
    assert numbers["words"] == numbers["hits"] + numbers["substitutions"] + numbers["deletions"]
    assert numbers["wer_ci"][0] <= numbers["wer"] <= numbers["wer_ci"][1]


# --- alignments ------------------------------------------------------------------------------


def test_alignment_text():
    result = score([Hypothesis("a/1", "the fox leaps up high", "the quick fox jumps up")])
    assert result.utterances[0].alignment() == "\n".join(
        [
            "a/1  3 errors in 5 words",
            "ref: the quick fox jumps up *",
            "hyp: the *     fox leaps up high",
            "         D         S        I",
        ]
    )


def test_alignment_pairs_rebuild_both_texts():
    for utterance in score(random_system(3)).utterances:
        assert " ".join(left for left, _ in utterance.pairs if left) == utterance.reference
        assert " ".join(right for _, right in utterance.pairs if right) == utterance.text


def test_alignment_columns_of_wide_and_combining_letters():
    for wide in ("東", "Ａ"):
        scored = score([Hypothesis("a", f"{wide} x", "a\u0301 x")])
        text = scored.utterances[0].alignment().split("\n")
        assert text[1] == "ref: a\u0301  x"  # one column and a space to fill two
        assert text[2] == f"hyp: {wide} x"


# --- what cannot be scored -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hypotheses", "message"),
    [
        ([], "no utterances"),
        ([Hypothesis("a", "x", "x"), Hypothesis("b", "x")], "'b' has no reference"),
        ([Hypothesis("a", "x", "x"), Hypothesis("a", "x", "x")], "'a' occurs twice"),
        ([Hypothesis("a", "x", "")], "every reference is empty"),
        ([Hypothesis("a", "x", " ")], "every reference is empty"),
    ],
)
def test_unscorable(hypotheses, message):
    with pytest.raises(HypothesesError, match=message):
        score(hypotheses)


# --- bootstrap -------------------------------------------------------------------------------


def test_bootstrap_equals_slow_version():
    """The same draws, utterance by utterance in plain Python."""
    errors, lengths = np.array([0, 3, 1, 2]), np.array([5, 4, 3, 2])
    fast = bootstrap(errors, lengths, resamples=50, seed=7)
    drawn = np.random.default_rng(7).integers(4, size=(50, 4)).tolist()
    slow = [sum(errors[i] for i in row) / sum(lengths[i] for i in row) for row in drawn]
    np.testing.assert_allclose(fast, slow)


def test_bootstrap_distribution_equals_enumeration():
    """All 3^3 equally likely samples, against the frequencies of many drawn ones."""
    errors, lengths = np.array([0, 1, 4]), np.array([2, 3, 5])
    rows = np.array(list(itertools.product(range(3), repeat=3)))
    exact = errors[rows].sum(1) / lengths[rows].sum(1)
    drawn = bootstrap(errors, lengths, resamples=40_000, seed=0)
    for threshold in (0.1, 0.3, 0.5, 0.7):
        assert np.mean(drawn <= threshold) == pytest.approx(np.mean(exact <= threshold), abs=0.01)


def test_bootstrap_in_chunks(monkeypatch):
    errors, lengths = np.arange(10), np.full(10, 20)
    whole = bootstrap(errors, lengths, resamples=100, seed=1)
    for most in (70, 7):  # the latter is less than one resample
        monkeypatch.setattr("speechssl.significance.MAX_DRAWS", most)
        np.testing.assert_array_equal(bootstrap(errors, lengths, resamples=100, seed=1), whole)


def test_bootstrap_of_utterances_in_which_nothing_is_said():
    rates = bootstrap(np.array([0, 1, 0]), np.array([4, 0, 0]), resamples=200)
    assert np.isfinite(rates).all()


def test_interval_covers_the_true_rate():
    """Of 200 test sets with a true WER of 20 %, about 95 % have it in their interval."""
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        lengths = generator.integers(3, 10, size=100)
        rates = bootstrap(generator.binomial(lengths, 0.2), lengths, resamples=400)
        low, high = np.quantile(rates, [0.025, 0.975])
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_same_seed_same_interval():
    hypotheses = random_system(1)
    assert score(hypotheses).wer_interval == score(hypotheses).wer_interval
    for other in ({"seed": 1}, {"resamples": 50}):
        assert score(hypotheses, **other).wer_interval != score(hypotheses).wer_interval
    systems = score(hypotheses), score(random_system(2))
    interval = compare(*systems).difference_interval
    assert compare(*systems).difference_interval == interval
    for other in ({"seed": 1}, {"resamples": 50}):
        assert compare(*systems, **other).difference_interval != interval


# --- the paired test -------------------------------------------------------------------------


def enumerated_p_value(differences) -> float:
    observed = abs(sum(differences))
    signs = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(row, differences))) for row in signs]
    return sum(total >= observed for total in sums) / len(sums)


@pytest.mark.parametrize(
    "differences", [[1], [1, 1, 1], [0, 0], [2, -1, 3], [1, -1, 2, 2, 0, 5], [3, 3, -2, 1, 1, 1, 4]]
)
def test_p_value_equals_enumeration(differences):
    assert randomisation_p_value(np.array(differences)) == pytest.approx(
        enumerated_p_value(differences)
    )


def test_p_value_equals_sampling():
    """The textbook form: swap the two systems at random in each utterance."""
    differences = np.random.default_rng(0).integers(-3, 4, size=300) + (np.arange(300) % 8 == 0)
    signs = np.random.default_rng(1).choice([-1, 1], size=(20_000, 300))
    sampled = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    assert 0.001 < sampled < 0.9
    assert randomisation_p_value(differences) == pytest.approx(sampled, abs=0.015)


def test_p_value_of_many_utterances_is_a_probability():
    differences = np.random.default_rng(0).integers(-4, 5, size=5000)
    assert 0 < randomisation_p_value(differences) <= 1
    assert randomisation_p_value(np.ones(2000, dtype=np.int64)) < 1e-100
    for pairs in range(1, 30):  # whatever rounding makes of the sum of all probabilities
        p_value = randomisation_p_value(np.array([1, -1] * pairs))
        assert 1 - 1e-9 < p_value <= 1


def test_compare_by_hand():
    """Four utterances of one word; the first system is right in three, the second in none."""
    first = score([Hypothesis(i, "x" if i in "abc" else "y", "x") for i in "abcd"])
    second = score([Hypothesis(i, "y", "x") for i in "dcba"])
    result = compare(first, second)
    assert result.difference == -0.75
    assert result.p_value == pytest.approx(2 / 8)  # only +++ and --- are as extreme
    assert (result.better, result.worse) == (3, 0)
    # A resample ties only when it draws "d" four times.
    assert result.probability_of_improvement == pytest.approx(1 - 0.25**4, abs=0.003)
    assert result.difference_interval[0] == -1.0
    assert result.difference_interval[1] < 0


def test_compare_is_antisymmetric_and_null_for_itself():
    first, second = score(random_system(1)), score(random_system(2, error_rate=0.5))
    forth, back = compare(first, second), compare(second, first)
    assert forth.difference == -back.difference < 0
    assert forth.p_value == back.p_value < 0.05
    itself = compare(first, first)
    assert (itself.difference, itself.p_value) == (0.0, 1.0)
    assert json.loads(json.dumps(forth.to_dict()))["p_value"] == forth.p_value


def test_p_values_of_equal_systems_are_uniform():
    """Under the null hypothesis p <= 0.05 in at most about 5 % of the trials."""
    generator = np.random.default_rng(3)
    p_values = [
        randomisation_p_value(generator.integers(0, 4, size=60) - generator.integers(0, 4, size=60))
        for _ in range(600)
    ]
    assert np.mean(np.array(p_values) <= 0.05) < 0.075
    assert 0.4 < np.mean(p_values) < 0.6


def test_compare_refuses_other_utterances_and_references():
    first = score([Hypothesis("a", "x", "x"), Hypothesis("b", "x", "x")])
    with pytest.raises(HypothesesError, match=r"1 utterances occur in only one.*'b'"):
        compare(first, score([Hypothesis("a", "x", "x")]))
    with pytest.raises(HypothesesError, match="different references for 'b'"):
        compare(first, score([Hypothesis("a", "x", "x"), Hypothesis("b", "x", "x y")]))


# --- hyps.jsonl ------------------------------------------------------------------------------


def test_hypotheses_round_trip(tmp_path):
    path = tmp_path / "hyps.jsonl"
    hypotheses = [
        Hypothesis("a", "привет мир", "привет", 1.5),
        Hypothesis("b", 'quoted "text"\u2028', None, None),
        Hypothesis("c", "", "", 0.25),
    ]
    write_hypotheses(path, hypotheses)
    assert read_hypotheses(path) == hypotheses
    assert "привет" in path.read_text(encoding="utf-8")
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [len(json.loads(line)) for line in lines if line] == [4, 2, 4], "no unknown values"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no utterances"),
        (b"\n\n", "holds no utterances"),
        (b'{"id": "a", "text": "x"}\n{"id": "b", "te', "line 2: is not JSON"),
        (b'{"id": "a"}\n', "line 1: has no 'text'"),
        (b'{"id": 7, "text": "x"}\n', "line 1: has the wrong type of 'id'"),
        (b'["a", "x"]\n', "line 1: expected one JSON object"),
        (b'{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2: the id 'a' occurs"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_malformed_hypotheses(tmp_path, content, message):
    path = tmp_path / "hyps.jsonl"
    path.write_bytes(content)
    with pytest.raises(HypothesesError, match=message) as caught:
        read_hypotheses(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_hypotheses(tmp_path):
    with pytest.raises(HypothesesError, match="cannot be read"):
        read_hypotheses(tmp_path / "nothing.jsonl")
    with pytest.raises(HypothesesError, match="cannot be read"):
        read_hypotheses(tmp_path)
