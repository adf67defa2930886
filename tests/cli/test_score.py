import json

import pytest

from speechssl.hypotheses import Hypothesis, write_hypotheses


@pytest.fixture
def systems(tmp_path):
    """Two systems: the first is right in 7 of 8 words, the second in none."""
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    ids = [f"u{i}" for i in range(8)]
    write_hypotheses(first, [Hypothesis(i, "no" if i == "u3" else "yes", "yes") for i in ids])
    write_hypotheses(second, [Hypothesis(i, "no", "yes") for i in ids])
    return first, second


def test_table(speechssl, systems):
    result = speechssl("score", systems[0])
    assert result.exit_code == 0, result.output
    header, row = result.stdout.splitlines()
    names = ["system", "WER", "%", "95", "%", "CI", "CER", "%", "words", "sub", "del", "ins"]
    assert header.split()[:12] == names
    assert row.split()[1] == "12.50"
    assert row.split()[-5:] == ["8", "1", "0", "0", "8"]


def test_against_out_alignments_and_worst(speechssl, systems, tmp_path):
    out, alignments = tmp_path / "new" / "score.json", tmp_path / "alignments.txt"
    first, second = systems
    options = ["--against", second, "--out", out, "--alignments", alignments, "--worst", 1]
    result = speechssl("score", first, *options)
    assert result.exit_code == 0, result.output
    assert "WER difference -87.50" in result.stdout
    assert "p = 0.016 (paired randomisation test); 7 utterances better, 0 worse" in result.stdout
    assert "u3  1 errors in 1 words\nref: yes\nhyp: no\n     S" in result.stdout
    numbers = json.loads(out.read_text())
    assert numbers["wer"] == 0.125
    assert numbers["against"]["wer"] == 1.0
    assert numbers["comparison"]["p_value"] == pytest.approx(2 / 2**7)
    assert alignments.read_text().count("ref: yes") == 8


def test_numbers_are_not_overwritten_silently(speechssl, fails, systems, tmp_path):
    first, second = systems
    out, alignments = tmp_path / "score.json", tmp_path / "alignments.txt"
    options = ["--out", out, "--alignments", alignments]
    assert speechssl("score", first, *options).exit_code == 0
    for option in (["--out", out], ["--alignments", alignments]):
        assert "exists; give --overwrite" in fails("score", second, *option)
    assert json.loads(out.read_text())["wer"] == 0.125
    assert speechssl("score", second, *options, "--overwrite").exit_code == 0
    assert json.loads(out.read_text())["wer"] == 1.0


def test_missing_and_malformed_files(fails, tmp_path):
    assert "nothing.jsonl: cannot be read" in fails("score", tmp_path / "nothing.jsonl")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "a", "text": "x", "reference": "x"}\n{"id": "b", "te')
    assert "line 2: is not JSON" in fails("score", broken)
    broken.write_text("")
    assert "holds no utterances" in fails("score", broken)


def test_nothing_is_written_when_scoring_fails(fails, systems, tmp_path):
    first, _ = systems
    unknown = tmp_path / "unknown.jsonl"
    write_hypotheses(unknown, [Hypothesis("u0", "yes")])
    out = tmp_path / "score.json"
    message = fails("score", unknown, "--out", out)
    assert "unknown.jsonl: the utterance 'u0' has no reference" in message
    other = tmp_path / "other.jsonl"
    write_hypotheses(other, [Hypothesis("u0", "yes", "yes")])
    assert "7 utterances occur in only one" in fails("score", first, "--against", other)
    assert not out.exists()
