import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from speechssl.data.manifest import cut_text, cuts_path, load_cuts
from speechssl.decoding.transcriber import Transcriber
from speechssl.hypotheses import read_hypotheses


@pytest.fixture
def own_corpus(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the test cuts whose recordings may be damaged."""
    audio = tmp_path / "audio"
    shutil.copytree(corpus / "audio", audio)
    cuts = cuts_path(tmp_path, "test")
    cuts.parent.mkdir()
    with gzip.open(cuts_path(corpus, "test"), "rt") as source, gzip.open(cuts, "wt") as copy:
        copy.write(source.read().replace(str(corpus / "audio"), str(audio)))
    return cuts


def _edit(cuts: Path, line: int, **changes: object) -> None:
    """Changes the supervision of the cut in ``line``."""
    with gzip.open(cuts, "rt") as stream:
        lines = stream.read().splitlines()
    cut = json.loads(lines[line])
    cut["supervisions"][0].update(changes)
    lines[line] = json.dumps(cut)
    with gzip.open(cuts, "wt") as stream:
        stream.write("\n".join(lines) + "\n")


def test_every_cut_in_order(speechssl, recogniser, corpus, tmp_path):
    cuts, out = cuts_path(corpus, "test"), tmp_path / "new" / "hyps.jsonl"
    result = speechssl("decode", recogniser, cuts, out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("4 cuts, ")
    hypotheses, manifest = read_hypotheses(out), list(load_cuts(cuts))
    transcriber = Transcriber(recogniser)
    for hypothesis, cut in zip(hypotheses, manifest, strict=True):
        assert hypothesis.id == cut.id
        assert hypothesis.reference == cut_text(cut)
        assert hypothesis.seconds == pytest.approx(cut.duration, abs=1e-3)
        path = cut.recording.sources[0].source
        assert hypothesis.text == transcriber.transcribe_file(path)


def test_batch_size_does_not_matter(speechssl, recogniser, corpus, tmp_path):
    cuts = cuts_path(corpus, "train")
    outs = [tmp_path / "together.jsonl", tmp_path / "alone.jsonl"]
    for out, seconds in zip(outs, (1000, 0.1)):
        speechssl("decode", recogniser, cuts, out, "--batch-seconds", seconds)
    assert outs[0].read_text() == outs[1].read_text()


def test_existing_file_is_not_replaced_silently(speechssl, fails, recogniser, corpus, tmp_path):
    out = tmp_path / "hyps.jsonl"
    out.write_text("precious")
    arguments = ("decode", recogniser, cuts_path(corpus, "test"), out)
    assert "hyps.jsonl: exists; give --overwrite" in fails(*arguments)
    assert out.read_text() == "precious"
    assert speechssl(*arguments, "--overwrite").exit_code == 0
    assert len(read_hypotheses(out)) == 4


def test_without_transcripts(speechssl, recogniser, own_corpus, tmp_path):
    _edit(own_corpus, 1, text=None)
    out = tmp_path / "hyps.jsonl"
    assert speechssl("decode", recogniser, own_corpus, out).exit_code == 0
    assert [hypothesis.reference is None for hypothesis in read_hypotheses(out)] == [
        False,
        True,
        False,
        False,
    ]


def test_unknown_character(speechssl, fails, recogniser, own_corpus, tmp_path):
    _edit(own_corpus, 2, text="bede ñ")
    out = tmp_path / "hyps.jsonl"
    cut = list(load_cuts(own_corpus))[2]
    message = fails("decode", recogniser, own_corpus, out)
    for part in (cut.id, "'ñ'", "normalise", "--allow-unknown"):
        assert part in message
    assert not out.exists()
    assert speechssl("decode", recogniser, own_corpus, out, "--allow-unknown").exit_code == 0
    assert read_hypotheses(out)[2].reference == "bede ñ"


def test_unreadable_recordings(speechssl, recogniser, own_corpus, tmp_path):
    paths = [Path(cut.recording.sources[0].source) for cut in load_cuts(own_corpus)]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    nans = np.full(soundfile.info(paths[2]).frames, np.nan, dtype=np.float32)
    soundfile.write(paths[2], nans, soundfile.info(paths[2]).samplerate, subtype="FLOAT")
    out = tmp_path / "hyps.jsonl"
    result = speechssl("decode", recogniser, own_corpus, out)
    assert result.exit_code == 2
    assert [hypothesis.id for hypothesis in read_hypotheses(out)] == [paths[3].stem]
    *skipped, summary = result.stderr.splitlines()
    assert len(skipped) == 3
    for path in paths[:3]:
        assert any(line.startswith(f"skipped: {path}: ") for line in skipped)
    assert summary.startswith("error: 3 of 4 recordings could not be read")
    assert "Traceback" not in result.output


def test_no_readable_recording_writes_nothing(speechssl, recogniser, own_corpus, tmp_path):
    shutil.rmtree(tmp_path / "audio")
    out = tmp_path / "hyps.jsonl"
    result = speechssl("decode", recogniser, own_corpus, out)
    assert result.exit_code == 2
    assert "error: 4 of 4 recordings" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no gzip", gzip.compress(b'{"id": 1}\n{')],
    ids=["missing", "empty", "no gzip", "no cuts"],  # gzip has a time stamp: no name for a test
)
def test_bad_manifests(fails, recogniser, tmp_path, content):
    cuts, out = tmp_path / "cuts.jsonl.gz", tmp_path / "hyps.jsonl"
    if content is not None:
        cuts.write_bytes(content)
    assert str(cuts) in fails("decode", recogniser, cuts, out)
    assert not out.exists()


def test_bad_model_folders(fails, recogniser, corpus, tmp_path):
    cuts, out = cuts_path(corpus, "test"), tmp_path / "hyps.jsonl"
    assert "nothing" in fails("decode", tmp_path / "nothing", cuts, out)
    model = tmp_path / "model"
    shutil.copytree(recogniser, model)
    save_file({"layer.weight": torch.zeros(3)}, model / "model.safetensors")
    assert "model.safetensors" in fails("decode", model, cuts, out)
    (model / "model.safetensors").unlink()
    assert "model.safetensors" in fails("decode", model, cuts, out)
    assert not out.exists()


# --- beam search -------------------------------------------------------------------------------


def test_nbest(speechssl, recogniser, corpus, tmp_path):
    out = tmp_path / "hyps.jsonl"
    result = speechssl("decode", recogniser, cuts_path(corpus, "test"), out, "--nbest", 4)
    assert result.exit_code == 0, result.output
    for line in out.read_text().splitlines():
        fields = json.loads(line)
        assert fields["nbest"][0]["text"] == fields["text"]
        assert len({reading["text"] for reading in fields["nbest"]}) == 4
        scores = [reading["score"] for reading in fields["nbest"]]
        assert scores == sorted(scores, reverse=True)
    assert len(read_hypotheses(out)) == 4


def test_hotwords_from_a_file_and_by_name(speechssl, fails, recogniser, corpus, tmp_path):
    names, out = tmp_path / "names.txt", tmp_path / "hyps.jsonl"
    names.write_text("haha\n\n gaba  bede \n", encoding="utf-8-sig")  # as Windows writes it
    cuts = cuts_path(corpus, "test")
    arguments = ("decode", recogniser, cuts, out, "--overwrite", "--hotword-weight", 40)
    assert speechssl(*arguments, "--hotwords", names, "--hotwords", "dach").exit_code == 0
    heard = " ".join(hypothesis.text for hypothesis in read_hypotheses(out)).split()
    assert {"haha", "dach"} & set(heard)
    assert "hotword 'zoë'" in fails(*arguments, "--hotwords", "zoë")
    assert "hotword 'zzz" in fails(*arguments, "--hotwords", "z" * 300)  # too long for a file name


def test_options_win_over_the_file(speechssl, fails, recogniser, corpus, tmp_path):
    (tmp_path / "decoding.yaml").write_text("lm: missing.arpa\nbeam: 3\n")
    cuts, out = cuts_path(corpus, "test"), tmp_path / "hyps.jsonl"
    arguments = ("decode", recogniser, cuts, out, "--decoding", tmp_path / "decoding.yaml")
    assert "missing.arpa" in fails(*arguments)
    speechssl("lm", cuts_path(corpus, "train"), tmp_path / "words.arpa")
    assert speechssl(*arguments, "--lm", tmp_path / "words.arpa").exit_code == 0
