from speechssl.data.manifest import cut_text, cuts_path, load_cuts
from speechssl.decoding.lexicon import arpa_words


def test_from_manifest_and_text(speechssl, corpus, tmp_path):
    text = tmp_path / "more.txt"
    text.write_text("Don't panic, Zoë! Take 2.\n\n", encoding="utf-8")
    out, lexicon = tmp_path / "new" / "words.arpa", tmp_path / "lexicon.txt"
    cuts = cuts_path(corpus, "train")
    result = speechssl(
        "lm", cuts, text, out, "--language", "en", "--lexicon", lexicon, "--dev", cuts
    )
    assert result.exit_code == 0, result.output
    spoken = {word for cut in load_cuts(cuts) for word in (cut_text(cut) or "").split()}
    assert set(arpa_words(out)) == spoken | {"don't", "panic", "zoë", "take", "two"}
    assert "zoë\tz o ë |" in lexicon.read_text(encoding="utf-8").splitlines()
    assert "3-grams" in result.stdout
    assert "0.0 % unknown words" in result.stdout


def test_characters(speechssl, tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "characters.arpa"
    text.write_text("Ab ba\n", encoding="utf-8-sig")  # as Windows writes it
    result = speechssl("lm", text, out, "--unit", "character", "--order", 4, "--as-written")
    assert result.exit_code == 0, result.output
    assert sorted(arpa_words(out)) == ["A", "a", "b", "|"]
    assert "A b | b" in out.read_text()
    assert "b a | </s>" in out.read_text()


def test_errors(speechssl, fails, tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "words.arpa"
    text.write_text("...\n")
    assert "not one word" in fails("lm", text, out)
    assert "nothing.txt" in fails("lm", tmp_path / "nothing.txt", out)
    text.write_text("a b\n")
    assert "nothing.txt" in fails("lm", text, out, "--dev", tmp_path / "nothing.txt")
    assert not out.exists()
    text.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in fails("lm", text, out)
    text.write_text("a | b c\n")
    assert "space between words" in fails("lm", text, out, "--as-written")
    assert "--lexicon" in fails("lm", text, out, "--unit", "character", "--lexicon", tmp_path / "x")
    assert speechssl("lm", text, out).exit_code == 0
    assert "exists; give --overwrite" in fails("lm", text, out)
    assert speechssl("lm", text, out, "--overwrite").exit_code == 0
