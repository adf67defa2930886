from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from speechssl.data.manifest import cuts_path, load_cuts, save_cuts
from speechssl.errors import ConfigError, ManifestError, RunFolderError
from speechssl.files import sha256
from speechssl.models.folder import WEIGHTS
from speechssl.probing.run import ProbeConfig, probe
from tests.probing.parts import aligned_cuts


def accuracies(path: Path) -> dict[str, float]:
    report = json.loads(path.read_text())
    return {layer["layer"]: layer["accuracy"] for layer in report["layers"]}


def test_speakers(corpus: Path, recogniser: Path, tmp_path: Path) -> None:
    config = ProbeConfig(recogniser, cuts_path(corpus, "train"), "speaker")
    report = probe(config, tmp_path)
    stored = json.loads((tmp_path / "speaker.json").read_text())
    assert stored["layers"] == json.loads(json.dumps(report.layers))
    assert accuracies(tmp_path / "speaker.json")["log-mel"] == 1.0
    assert (stored["classes"], stored["chance"], stored["majority"]) == (2, 0.5, 0.5)
    assert (stored["train_utterances"], stored["test_utterances"]) == (10, 2)
    assert stored["model_hash"] == sha256(recogniser / WEIGHTS)
    late = [{**layer, "converged": layer["layer"] != "1"} for layer in report.layers]
    assert "perhaps too low: 1" in dataclasses.replace(report, layers=late).lines()
    assert report.best in report.layers[1:], "log-mels are no layer of the model"
    assert (tmp_path / "speaker.png").stat().st_size > 5000
    assert {file.name for file in tmp_path.iterdir()} == {"speaker.json", "speaker.png"}
    with pytest.raises(RunFolderError, match=r"speaker\.json: exists; give --overwrite"):
        probe(config, tmp_path)
    before = (tmp_path / "speaker.json").read_bytes()
    probe(config, tmp_path, overwrite=True)
    assert (tmp_path / "speaker.json").read_bytes() == before, "the same numbers again"


def test_one_of_two_speakers_is_asked_for(
    corpus_copy: Path, recogniser: Path, tmp_path: Path
) -> None:
    path = cuts_path(corpus_copy, "test")
    save_cuts([cut for cut in load_cuts(path) if cut.supervisions[0].speaker == "anna"], path)
    train = cuts_path(corpus_copy, "train")
    report = probe(ProbeConfig(recogniser, train, "speaker", test=path), tmp_path)
    assert (report.classes, report.train_utterances, report.test_utterances) == (2, 12, 2)
    assert report.majority in (0.0, 1.0)


def test_transcripts_that_are_all_different(corpus: Path, recogniser: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="choose words of them with --keywords"):
        probe(ProbeConfig(recogniser, cuts_path(corpus, "train"), "keyword"), tmp_path)


@pytest.mark.parametrize("examples", [100, 20_000], ids=["drawn", "all"])
def test_the_seed_decides(
    corpus_copy: Path, recogniser: Path, tmp_path: Path, examples: int
) -> None:
    """Which examples are drawn, and where k-means begins."""
    cuts = aligned_cuts(cuts_path(corpus_copy, "train"))
    task = "phone" if examples == 100 else "clusters"
    first, again, other = (
        probe(
            ProbeConfig(recogniser, cuts, task, examples=examples, clusters=9, seed=seed),
            tmp_path / str(number),
        ).layers
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert first != other


def test_phones_of_unheard_speakers(corpus_copy: Path, recogniser: Path, tmp_path: Path) -> None:
    train, test = (aligned_cuts(cuts_path(corpus_copy, split)) for split in ("train", "test"))
    config = ProbeConfig(recogniser, train, "phone", test=test, examples=300)
    report = probe(config, tmp_path)
    assert report.split == "test cuts as given, so a voice may be on both sides"
    assert (report.train_examples, report.units) == (300, "phones")
    assert report.test_utterances == 4
    assert accuracies(tmp_path / "phone.json")["log-mel"] > max(0.8, 2 * report.majority)
    shared = probe(ProbeConfig(recogniser, train, "phone", examples=300), tmp_path / "shared")
    assert shared.split == "by speaker: 1 of 2 speakers are held out"
    assert shared.layers[0]["accuracy"] < report.layers[0]["accuracy"]


def test_clusters_against_characters(corpus: Path, recogniser: Path, tmp_path: Path) -> None:
    report = probe(
        ProbeConfig(
            recogniser,
            cuts_path(corpus, "train"),
            "clusters",
            aligner=recogniser,
            clusters=4,
            examples=200,
        ),
        tmp_path,
    )
    stored = json.loads((tmp_path / "clusters.json").read_text())
    assert stored["units"] == "characters"
    assert stored["clusters"] == 4
    assert [layer["layer"] for layer in stored["layers"]] == ["log-mel", "0", "1"]
    assert all(0 < layer["pnmi"] < 1 for layer in stored["layers"])
    assert "4 clusters for each layer" in report.lines()
    assert (tmp_path / "clusters.png").stat().st_size > 5000


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an aligner is for the tasks phone and clusters"):
        ProbeConfig(tmp_path, tmp_path, "speaker", aligner=tmp_path)
    with pytest.raises(ConfigError, match="keywords are for the task keyword"):
        ProbeConfig(tmp_path, tmp_path, "phone", keywords=("yes",))
    with pytest.raises(ConfigError, match="clusters must be 2 to examples, but is 100"):
        ProbeConfig(tmp_path, tmp_path, "clusters", examples=99)
    assert ProbeConfig(tmp_path, tmp_path, "speaker", examples=99).examples == 99


def test_more_clusters_than_frames(corpus_copy: Path, recogniser: Path, tmp_path: Path) -> None:
    cuts = aligned_cuts(cuts_path(corpus_copy, "train"))
    config = ProbeConfig(recogniser, cuts, "clusters", clusters=9999)
    with pytest.raises(ConfigError, match=r"clusters must be at most \d+, the frames to"):
        probe(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
