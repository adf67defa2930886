"""The tools for named corpora, each on a miniature of its corpus in the real layout."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from speechssl.data.audio import cut_samples, decode_audio, read_cut
from speechssl.data.corpus_report import read_report
from speechssl.data.manifest import SPLITS, cut_text, cuts_path, load_cuts

Tool = Callable[..., tuple[int, str, str]]


def sound(path: Path, seconds: float = 0.3, rate: int = 16_000) -> None:
    """Writes a recording of noise, no two alike, in the format of the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    options = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * rate)), rate, **options)


def lines(path: Path, rows: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def librispeech_part(part: Path, ids: Sequence[str]) -> None:
    """SPEAKER/CHAPTER/*.flac and one table of transcripts in each chapter."""
    for id in ids:
        speaker, chapter, _ = id.split("-")
        folder = part / speaker / chapter
        sound(folder / f"{id}.flac")
        table = folder / f"{speaker}-{chapter}.trans.txt"
        known = table.read_text().splitlines() if table.exists() else []
        lines(table, [*known, f"{id} DON'T SAY {id[-1]}"])


def librispeech(root: Path) -> None:
    librispeech_part(root / "train-clean-100", ["19-198-0000", "19-198-0001", "26-495-0000"])
    librispeech_part(root / "train-other-500", ["20-205-0000"])
    librispeech_part(root / "dev-clean", ["84-121123-0000"])
    librispeech_part(root / "dev-other", ["116-288045-0000"])
    librispeech_part(root / "test-clean", ["61-70968-0000"])


def librilight(root: Path) -> None:
    book = root / "small" / "100" / "sea_fairies_0812_librivox_64kb_mp3"
    sound(book / "01_baum.flac", seconds=40)
    spoken = [[0.5, 10.0], [11.0, 20.5], [21.0, 29.0], [36.0, 36.4]]
    sound(book / "02_baum.flac", seconds=28.5)
    for name, activity in (("01_baum", spoken), ("02_baum", [[0.0, 28.5]])):
        about = {"speaker": "100", "book_meta": {}, "voice_activity": activity}
        (book / f"{name}.json").write_text(json.dumps(about))


def limited(root: Path) -> None:
    librispeech_part(root / "1h/0/clean", ["19-198-0000"])
    librispeech_part(root / "1h/0/other", ["20-205-0000"])
    librispeech_part(root / "1h/3/clean", ["26-495-0000"])
    librispeech_part(root / "9h/clean", ["27-123-0000"])
    librispeech_part(root / "LibriSpeech/dev-other", ["116-288045-0000"])
    librispeech_part(root / "LibriSpeech/test-clean", ["61-70968-0000"])


COMMON_VOICE = {
    "train": ["ana clip1 Kwa_nini?", "ana clip2 ..."],
    "dev": ["bob clip3 Siku_mbili"],
    "test": ["cid clip4 “Ndiyo”"],
    "validated": [
        "ana clip1 Kwa_nini?", "ana clip5 Tena", "bob clip3 Siku_mbili", "cid clip6 Ndiyo",
    ],
    "other": ["dee clip7 Hapana", "cid clip8 Hapana"],
}  # fmt: skip


def common_voice(root: Path) -> None:
    for table, clips in COMMON_VOICE.items():
        rows = ["client_id\tpath\tsentence_id\tsentence\tup_votes\taccents\tvariant\tlocale"]
        for clip in clips:
            speaker, name, sentence = clip.split(" ")
            sound(root / "sw" / "clips" / f"{name}.mp3", rate=32_000)
            rows.append(f"{speaker}\t{name}.mp3\tx\t{sentence.replace('_', ' ')}\t2\t\t\tsw")
        lines(root / "sw" / f"{table}.tsv", rows)


def fleurs(audio: str, tables: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for number, split in enumerate(SPLITS):
            name = f"10{number}.wav"
            sound(root / audio.format(split=split) / name)
            text = "Habari 2!", "habari 2", "h a b a r i | 2 |"
            row = [str(number), name, *text, "4800", "FEMALE"]
            lines(root / tables.format(split=split), ["\t".join(row)])

    return write


def mls(ending: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        folder = root / ("mls_german_opus" if ending == "opus" else "mls_german")
        lines(folder / "metainfo.txt", ["SPEAKER | GENDER | PARTITION", " 12  |  F  |  train"])
        for number, split in enumerate(SPLITS):
            id = f"12_34_00000{number}"
            sound(folder / split / "audio" / "12" / "34" / f"{id}.{ending}")
            lines(folder / split / "transcripts.txt", [f"{id}\tgroße straße {'abc'[number]}"])

    return write


def voxpopuli(folder: str, ending: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        session = "20120213-0900-PLENARY"
        sound(root / "raw_audios" / folder / "2012" / f"{session}_{ending}.ogg", seconds=6)
        columns = ("session_id", "id_", "original_text", "normed_text", "speaker_id", "split")
        rows = ["|".join([*columns, "gender", "start_time", "end_time", "vad"])]
        for number, split in enumerate(SPLITS):
            start, end = 2 * number + 0.5, 2 * number + 1.5
            row = (session, "x", "Dobar dan, 5!", "dobar dan", number, split, "male", start, end)
            rows.append("|".join(map(str, [*row, [(start, end)]])))
        with gzip.open(root / "asr_hr.tsv.gz", "wt") as stream:
            stream.write("".join(f"{row}\n" for row in rows))

    return write


def ljspeech(root: Path) -> None:
    ids = ["LJ001-0001", "LJ001-0002", "LJ002-0001", "LJ003-0001"]
    for id in ids:
        sound(root / "wavs" / f"{id}.wav", rate=22_050)
    lines(root / "metadata.csv", [f"{id}|Dr. No, 1860.|Doctor No, eighteen sixty." for id in ids])


def speech_commands(root: Path) -> None:
    part, tested = (root / f"speech_commands_{name}v0.02" for name in ("", "test_set_"))
    for name in ("yes/a1_nohash_0", "yes/b2_nohash_0", "cat/a1_nohash_0", "cat/c3_nohash_1"):
        sound(part / f"{name}.wav")
    sound(part / "_background_noise_" / "running_tap.wav")
    lines(part / "validation_list.txt", ["yes/b2_nohash_0.wav"])
    lines(part / "testing_list.txt", ["cat/c3_nohash_1.wav"])
    for name in ("yes/d4_nohash_0", "_unknown_/cat_c3_nohash_1", "_silence_/1"):
        sound(tested / f"{name}.wav")


def fsdd(root: Path) -> None:
    for name in ("3_lucas_0", "3_lucas_7", "7_theo_12", "recorded_by_theo"):
        sound(root / "recordings" / f"{name}.wav", rate=8_000)


def yesno(root: Path) -> None:
    for said in list(product("01", repeat=8))[:60]:
        sound(root / f"{'_'.join(said)}.wav", seconds=0.1, rate=8_000)


@dataclass(frozen=True)
class Case:
    """A miniature, how its tool is called, and what it must write."""

    tool: str
    write: Callable[[Path], None]
    texts: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """By split, then id; not compared where a split is not named."""
    options: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    rejected: tuple[str, ...] = ()
    seconds: float = 0.3
    speakers: tuple[str, ...] = ()
    """All of them, over all splits."""


HELD_OUT = {
    "dev": {"116-288045-0000": "don't say zero"},
    "test": {"61-70968-0000": "don't say zero"},
}
SWAHILI = {split: {f"{i}_1_10{i}": "habari 2"} for i, split in enumerate(SPLITS)}
GERMAN = {s: {f"12_34_00000{i}": f"große straße {'abc'[i]}"} for i, s in enumerate(SPLITS)}
CROATIAN = {
    split: {f"20120213-0900-PLENARY-{i + 1}": "dobar dan"} for i, split in enumerate(SPLITS)
}

PARTS = ("librilight", "voxpopuli", "voxpopuli-language")
"""Corpora whose utterances are parts of recordings."""

CASES = {
    "librispeech": Case(
        "librispeech",
        librispeech,
        {"test": {"61-70968-0000": "don't say zero"}},
        counts=(4, 2, 1),
        speakers=("116", "19", "20", "26", "61", "84"),
    ),
    "librispeech-parts": Case(
        "librispeech",
        librispeech,
        {"train": {"20-205-0000": "don't say zero"}, "dev": HELD_OUT["dev"], "test": {}},
        ("--train", "train-other-500", "--dev", "dev-other", "--test", ""),
        speakers=("116", "20"),
    ),
    "librilight": Case(
        "librilight",
        librilight,
        {
            "train": {
                f"small/100/sea_fairies_0812_librivox_64kb_mp3/{part}": None
                for part in ("01_baum-00000500-00029000", "02_baum-00000000-00028500")
            }
        },
        seconds=28.5,
        speakers=("100",),
    ),
    "librilight-10min": Case(
        "librilight",
        limited,
        {"train": {"19-198-0000": "don't say zero", "20-205-0000": "don't say zero"}, **HELD_OUT},
        ("--limited", "10min", "--librispeech", "{root}/LibriSpeech"),
    ),
    "librilight-10min-3": Case(
        "librilight",
        limited,
        {"train": {"26-495-0000": "don't say zero"}},
        ("--limited", "10min", "--fold", "3"),
    ),
    "librilight-10h": Case("librilight", limited, counts=(4, 0, 0), options=("--limited", "10h")),
    "common_voice": Case(
        "common_voice",
        common_voice,
        {
            "train": {"clip1": "kwa nini"},
            "dev": {"clip3": "siku mbili"},
            "test": {"clip4": "ndiyo"},
        },
        ("--language", "sw"),
        rejected=("clip2",),
        speakers=("ana", "bob", "cid"),
    ),
    "common_voice-all": Case(
        "common_voice",
        common_voice,
        {"train": {"clip1": "kwa nini", "clip5": "tena", "clip7": None}},
        ("--language", "sw", "--validated", "--other"),
        rejected=("clip2",),
    ),
    "fleurs": Case(
        "fleurs",
        fleurs("sw_ke/audio/{split}", "sw_ke/{split}.tsv"),
        SWAHILI,
        ("--language", "sw_ke"),
    ),
    "fleurs-lhotse": Case(
        "fleurs",
        fleurs("sw_ke/{split}", "metadata/sw_ke/{split}.tsv"),
        SWAHILI,
        ("--language", "sw_ke"),
    ),
    "mls": Case("mls", mls("flac"), GERMAN, ("--language", "german"), speakers=("12",)),
    "mls-opus": Case("mls", mls("opus"), GERMAN, ("--language", "german"), speakers=("12",)),
    "voxpopuli": Case(
        "voxpopuli",
        voxpopuli("original", "original"),
        CROATIAN,
        ("--language", "hr"),
        seconds=1.0,
        speakers=("0", "1", "2"),
    ),
    "voxpopuli-language": Case(
        "voxpopuli", voxpopuli("hr", "hr"), CROATIAN, ("--language", "hr"), seconds=1.0
    ),
    "ljspeech": Case(
        "ljspeech",
        ljspeech,
        {
            "dev": {"LJ002-0001": "doctor no eighteen sixty"},
            "test": {"LJ003-0001": "doctor no eighteen sixty"},
        },
        counts=(2, 1, 1),
    ),
    "speech_commands": Case(
        "speech_commands",
        speech_commands,
        {
            "train": {"cat_a1_nohash_0": "cat", "yes_a1_nohash_0": "yes"},
            "dev": {"yes_b2_nohash_0": "yes"},
            "test": {"_unknown__cat_c3_nohash_1": "cat", "yes_d4_nohash_0": "yes"},
        },
        speakers=("a1", "b2", "c3", "d4"),
    ),
    "fsdd": Case(
        "fsdd",
        fsdd,
        {
            "train": {"7_theo_12": "seven"},
            "dev": {"3_lucas_7": "three"},
            "test": {"3_lucas_0": "three"},
        },
        rejected=("recorded_by_theo",),
        speakers=("lucas", "theo"),
    ),
    "yesno": Case("yesno", yesno, counts=(27, 3, 30), seconds=0.1),
}


def arguments(case: Case, root: Path) -> list[str]:
    return ["--corpus", str(root), *(option.format(root=root) for option in case.options)]


@pytest.mark.parametrize("name", CASES)
def test_a_corpus_in_its_real_layout(
    load_tool: Callable[[str], ModuleType], tmp_path: Path, name: str
) -> None:
    """What a tool lists; ``test_a_prepared_corpus`` sees it written."""
    case, command = CASES[name], load_tool(f"prepare_{CASES[name].tool}").main
    case.write(tmp_path)
    given = command.make_context(name, ["out", *arguments(case, tmp_path)]).params
    own = {k: v for k, v in given.items() if k not in ("out", "source", "where", "overwrite")}
    listing = command.callback.__wrapped__(given["source"], **own)

    parts = {s: [u for u in listing.utterances if u.split == s] for s in SPLITS}
    texts = {split: {u.id: u.text for u in part} for split, part in parts.items()}
    assert {split: texts[split] for split in case.texts} == case.texts
    if case.counts:
        assert tuple(len(texts[split]) for split in SPLITS) == case.counts
    assert sum(map(len, texts.values())) == len(listing.utterances), "ids differ"
    if case.speakers:
        assert tuple(sorted({u.speaker for u in listing.utterances})) == case.speakers
    for utterance in listing.utterances:
        samples, rate = decode_audio(
            utterance.audio, start=utterance.start, duration=utterance.duration
        )
        assert len(samples) / rate == pytest.approx(case.seconds, abs=0.1)
        assert utterance.is_part == (name in PARTS)
    assert tuple(rejected.item for rejected in listing.rejected) == case.rejected


@pytest.mark.parametrize("name", ["librispeech-parts", "common_voice", "voxpopuli"])
def test_a_prepared_corpus(tool: Tool, tmp_path: Path, name: str) -> None:
    case, root, out = CASES[name], tmp_path / "corpus", tmp_path / "out"
    case.write(root)
    status, printed, problem = tool(f"prepare_{case.tool}", out, *arguments(case, root))
    assert status == 0, problem
    for split, texts in case.texts.items():
        if not texts:
            assert not cuts_path(out, split).exists()
            continue
        cuts = list(load_cuts(cuts_path(out, split)))
        assert {cut.id: cut_text(cut) for cut in cuts} == texts
        assert all(len(read_cut(cut)) == cut_samples(cut) for cut in cuts)
    report = read_report(out)
    assert tuple(rejected.item for rejected in report.rejected) == case.rejected
    assert report.corpus in printed
    assert report.rights
    status, printed, _ = tool(f"prepare_{case.tool}", out, *arguments(case, root))
    assert status == 0
    assert "already prepared" in printed


FIRST_CASES = {case.tool: case for case in reversed(CASES.values())}


@pytest.mark.parametrize("name", FIRST_CASES)
def test_a_folder_that_is_not_the_corpus(tool: Tool, tmp_path: Path, name: str) -> None:
    sound(tmp_path / "music" / "song.wav")
    for folder in (tmp_path / "music", tmp_path / "nowhere"):
        status, _, problem = tool(
            f"prepare_{name}", tmp_path / "out", *arguments(FIRST_CASES[name], folder)
        )
        assert status == 2
        assert problem.startswith("error: ")
        assert str(folder) in problem
        assert problem.count("\n") == 1, "one line"
    status, _, problem = tool(f"prepare_{name}", tmp_path / "out", *FIRST_CASES[name].options)
    assert status == 2
    assert "--corpus DIR" in problem
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "item"),
    [
        ("librispeech", "train-clean-100/19/198/19-198-0001.flac", "19-198-0001"),
        ("common_voice", "sw/clips/clip1.mp3", "clip1"),
    ],
)
def test_a_missing_recording_is_named(
    tool: Tool, tmp_path: Path, name: str, file: str, item: str
) -> None:
    """Whether Lhotse's recipe sees that it is missing, or the check of the audio."""
    case, root = CASES[name], tmp_path / "corpus"
    case.write(root)
    (root / file).unlink()
    assert tool(f"prepare_{name}", tmp_path / "out", *arguments(case, root))[0] == 0
    reasons = {r.item: r.reason for r in read_report(tmp_path / "out").rejected}
    assert file in reasons[item]
    assert "no such file" in reasons[item]


def test_a_damaged_recording_stops_a_recipe_of_lhotse_by_name(tool: Tool, tmp_path: Path) -> None:
    librispeech(tmp_path / "corpus")
    damaged = tmp_path / "corpus/train-clean-100/19/198/19-198-0001.flac"
    damaged.write_bytes(b"no flac")
    status, _, problem = tool(
        "prepare_librispeech", tmp_path / "out", "--corpus", tmp_path / "corpus"
    )
    assert status == 2
    assert "19-198-0001.flac" in problem
    assert problem.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("librispeech", "--train", "train-clean-360"), "no part 'train-clean-360'"),
        (("librispeech", "--test", "dev-clean"), "no part 'dev-clean' for test; it has test-clean"),
        (("librispeech", "--download", "x"), "either --corpus DIR or --download DIR"),
    ],
)
def test_parts_of_librispeech(
    tool: Tool, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    librispeech(tmp_path / "corpus")
    name, *options = arguments
    status, _, problem = tool(
        f"prepare_{name}", tmp_path / "out", "--corpus", tmp_path / "corpus", *options
    )
    assert status == 2
    assert message in problem


def pack(archive: Path, folder: Path, name: str) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=name)


def test_downloads(
    load_tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files instead of the network."""
    site, cache = tmp_path / "site", tmp_path / "cache"
    fsdd(tmp_path / "fsdd")
    pack(site / "master.tar.gz", tmp_path / "fsdd", "free-spoken-digit-dataset-master")
    mls("opus")(tmp_path / "mls")
    pack(site / "mls_german_opus.tar.gz", tmp_path / "mls/mls_german_opus", "mls_german_opus")
    fleurs("sw_ke/audio/{split}", "sw_ke/{split}.tsv")(site)
    for split in SPLITS:
        pack(site / f"sw_ke/audio/{split}.tar.gz", site / "sw_ke/audio" / split, split)
    limited(tmp_path / "librispeech_finetuning")
    pack(
        site / "librispeech_finetuning.tgz",
        tmp_path / "librispeech_finetuning",
        "librispeech_finetuning",
    )

    def get(name: str, address: str, where: Path, **options: str) -> Path:
        module = load_tool(f"prepare_{name}")
        monkeypatch.setattr(module, address, (site / site_file[name]).as_uri())
        return module.download(where, **options)

    site_file = {"fsdd": "master.tar.gz", "mls": "", "fleurs": "", "librilight": ""}
    for again in (False, True):  # what is unpacked is not fetched again
        if again:
            for archive in site.rglob("*.tar.gz"):
                archive.unlink()
        got = get("fsdd", "ARCHIVE", cache / "fsdd")
        assert (got / "recordings" / "3_lucas_0.wav").is_file()
        got = get("mls", "ADDRESS", cache, language="german")
        assert (got / "mls_german_opus" / "metainfo.txt").is_file()
        got = get("fleurs", "ADDRESS", cache, language="sw_ke")
        assert (got / "sw_ke" / "audio" / "dev" / "101.wav").is_file()
        assert (got / "sw_ke" / "dev.tsv").is_file()
    got = get("librilight", "ADDRESS", cache, limited="10min", subset="small")
    assert (got / "1h/0/clean/19/198/19-198.trans.txt").is_file()


def test_a_failed_download(
    load_tool: Callable[[str], ModuleType],
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "page.tar.gz").write_text("<html>not an archive</html>")
    module = load_tool("prepare_fsdd")
    for address in ("file:///nowhere/fsdd.tar.gz", (tmp_path / "page.tar.gz").as_uri()):
        monkeypatch.setattr(module, "ARCHIVE", address)
        status, _, problem = tool(module, tmp_path / "out", "--download", tmp_path / "cache")
        assert status == 2
        assert "give its folder with --corpus" in problem
        assert not list((tmp_path / "cache").glob("*.unpacked"))
        assert not (tmp_path / "out").exists()
