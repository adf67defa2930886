import gzip

import pytest

from speechssl.data.manifest import cuts_path
from speechssl.decoding.settings import DecodingSettings
from speechssl.hypotheses import read_hypotheses


@pytest.fixture
def words(speechssl, corpus, tmp_path):
    path = tmp_path / "words.arpa"
    assert speechssl("lm", cuts_path(corpus, "train"), path, "--order", 2).exit_code == 0
    return path


def test_weights_are_found_and_used(speechssl, recogniser, corpus, words, tmp_path):
    out = tmp_path / "tuned.yaml"
    result = speechssl("tune-decoding", recogniser, cuts_path(corpus, "dev"), out, "--lm", words)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].startswith("greedy")
    assert (tmp_path / "tuned.png").is_file()
    settings = DecodingSettings.load(out)
    assert settings.lm == str(words)
    hyps = tmp_path / "hyps.jsonl"
    arguments = ("decode", recogniser, cuts_path(corpus, "test"), hyps, "--decoding", out)
    assert speechssl(*arguments).exit_code == 0
    known = {"ada", "bede", "cafe", "dach", "eche", "fade", "gaba", "haha"}
    assert {word for hyp in read_hypotheses(hyps) for word in hyp.text.split()} <= known


def test_with_an_open_vocabulary(speechssl, recogniser, corpus, words, tmp_path):
    out, hyps = tmp_path / "tuned.yaml", tmp_path / "hyps.jsonl"
    tuned = ("tune-decoding", recogniser, cuts_path(corpus, "dev"), out, "--lm", words)
    result = speechssl(*tuned, "--open-vocabulary")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].endswith("unknown score")
    settings = DecodingSettings.load(out)
    assert settings.open_vocabulary
    decoded = ("decode", recogniser, cuts_path(corpus, "test"), hyps, "--decoding", out)
    for closed in ((), ("--closed-vocabulary", "--unknown-score", -4.0)):
        assert speechssl(*decoded, *closed, "--overwrite").exit_code == 0
        assert len(read_hypotheses(hyps)) > 0


def test_it_is_said_how_many_words_the_language_model_lacks(
    speechssl, recogniser, corpus, words, tmp_path
):
    (tmp_path / "few.txt").write_text("ada bede\nbede ada\n")
    few = tmp_path / "few.arpa"
    assert speechssl("lm", tmp_path / "few.txt", few, "--order", 2).exit_code == 0
    tuned = ("tune-decoding", recogniser, cuts_path(corpus, "dev"), tmp_path / "tuned.yaml")
    said = speechssl(*tuned, "--lm", few).stdout
    assert f"% of the words are not in {few}: they are never written; --open-vocabulary" in said
    said = speechssl(*tuned, "--lm", few, "--open-vocabulary", "--overwrite").stdout
    assert f"% of the words are not in {few}: they are spelled" in said
    assert "of the words" not in speechssl(*tuned, "--lm", words, "--overwrite").stdout


def test_test_data_is_refused(fails, recogniser, corpus, words, tmp_path):
    out = tmp_path / "decoding.yaml"
    message = fails("tune-decoding", recogniser, cuts_path(corpus, "test"), out, "--lm", words)
    assert "test data" in message
    assert not out.exists()


def test_errors(fails, recogniser, corpus, words, tmp_path):
    arguments = ("tune-decoding", recogniser, cuts_path(corpus, "dev"), tmp_path / "decoding.yaml")
    assert "--lm" in fails(*arguments)
    assert "nothing.arpa" in fails(*arguments, "--lm", tmp_path / "nothing.arpa")
    for name in ("decoding.png", "decoding.PNG"):
        picture = ("tune-decoding", recogniser, cuts_path(corpus, "dev"), tmp_path / name)
        assert "give the settings one in .yaml" in fails(*picture, "--lm", words)
    for name in ("decoding.png", "decoding.yaml"):
        (tmp_path / name).write_text("beam: 5\n")
        assert f"{name}: exists; give --overwrite" in fails(*arguments, "--lm", words)
        (tmp_path / name).unlink()


def test_language_model_is_checked_before_the_audio_is_heard(
    fails, speechssl, recogniser, corpus, words, tmp_path
):
    lost = tmp_path / "lost.jsonl"
    text = gzip.decompress(cuts_path(corpus, "dev").read_bytes()).decode()
    lost.write_text(text.replace(str(corpus), str(tmp_path / "nowhere")))
    (tmp_path / "capitals.txt").write_text("HELLO WORLD\n")
    capitals = tmp_path / "capitals.arpa"
    build = ("lm", tmp_path / "capitals.txt", capitals, "--as-written")
    assert speechssl(*build).exit_code == 0
    arguments = ("tune-decoding", recogniser, lost, tmp_path / "decoding.yaml", "--lm")
    assert "capitals.arpa: the model's tokens" in fails(*arguments, capitals)
    assert "cannot be read" in fails(*arguments, words)
