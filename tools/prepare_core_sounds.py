#!/usr/bin/env python3
"""Prepares the Asterisk core sounds: prompts of a telephone system, read by professional voices.

Real speech with transcripts in English, Spanish, French, Italian and Russian, one voice per
language, 8 kHz, about 2,800 prompts and 130 minutes. Debian and Ubuntu ship them; they are
downloaded and unpacked here, never installed.

Rights: recordings and transcripts are under CC-BY-SA 3.0 (English, Spanish: Allison Smith, 2003 to
2010; French: June Wallack, 2006 to 2008) and CC-BY 3.0 (Russian: Maxim Topal, 2010; Italian: Carlo
Flora, translated by Silvia Petrin, 2012), paid for by Digium, Inc. and others; the packages' file
usr/share/doc/*/copyright has the full text.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click

from speechssl.cli.main import OneLineErrors
from speechssl.data.corpus import download_file, write_corpus
from speechssl.data.normalization import normalize_text
from speechssl.data.splitting import split_by_key
from speechssl.data.utterance import Rejected, Utterance
from speechssl.errors import ManifestError

VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
"""The voice of each language: the speaker, and the folder's name in the Debian packages."""

UPSTREAM = "https://downloads.asterisk.org/pub/telephony/sounds/releases/"
UPSTREAM_VERSION = "1.6.1"

RIGHTS = (
    "Recordings by Allison Smith (en, es) and June Wallack (fr), CC-BY-SA 3.0, and by Maxim Topal "
    "(ru) and Carlo Flora (it), CC-BY 3.0."
)

DEV, TEST = 0.07, 0.35
"""Shares of the texts that are in the dev and the test split."""

FASTEST_SPEECH = 25.0
"""Characters per second above which transcript and recording cannot belong together."""

NOT_SPEECH = {
    *("ascending-2tone", "descending-2tone", "beep", "beeperr", "tt-monkeys"),
    *("confbridge-join", "confbridge-leave"),
}
"""Prompts that are tones or noises, whatever their transcript says (and all of silence/)."""

SPOKEN_SYMBOLS = {"en": {"*": " star ", "#": " pound "}}
"""How the voice reads the keys of the telephone, where the transcript has only the symbol."""


@click.command(
    cls=OneLineErrors,
    epilog="\b\nExample:\n  python tools/prepare_core_sounds.py data/core_sounds --languages en,ru",
    help="Writes OUT/{train,dev,test}/cuts.jsonl.gz for the Asterisk core sounds and a report. "
    "No text is in two splits, and a text is in the same split on every machine.",
)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--languages", default=",".join(VOICES), show_default=True, help="Which to prepare.")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="A folder with the .deb or .tar.gz archives, or with an unpacked tree; without it the "
    "archives are downloaded.",
)
@click.option(
    "--download",
    type=click.Path(path_type=Path),
    help="Where archives and recordings are kept (default: OUT/download).",
)
@click.option(
    "--from",
    "origin",
    type=click.Choice(["debian", "upstream"]),
    default="debian",
    show_default=True,
    help="Download with apt-get from the system's Debian or Ubuntu, or from asterisk.org.",
)
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def main(
    out: Path,
    languages: str,
    source: Path | None,
    download: Path | None,
    origin: str,
    overwrite: bool,
) -> None:
    cache = download or out / "download"
    utterances: list[Utterance] = []
    rejected: list[Rejected] = []
    for language in _languages(languages):
        tree = find_tree(language, source, cache, origin)
        good, bad = read_prompts(tree, language)
        utterances += good
        rejected += bad
    write_corpus(
        out,
        split_by_key(utterances, lambda u: f"{u.language}\n{u.text}", dev=DEV, test=TEST),
        corpus="Asterisk core sounds",
        rights=RIGHTS,
        rejected=rejected,
        notes=["splits: by the hash of the normalised text, none is in two splits"],
        fastest_speech=FASTEST_SPEECH,
        overwrite=overwrite,
    )


def _languages(names: str) -> list[str]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = sorted(set(chosen) - set(VOICES))
    if unknown or not chosen:
        raise ManifestError(
            f"--languages {names!r}: {', '.join(unknown) or 'nothing'} is not among "
            f"{', '.join(VOICES)}."
        )
    return list(dict.fromkeys(chosen))


# ---- where the recordings are


@dataclass(frozen=True)
class Tree:
    """The unpacked sounds of one language."""

    transcript: Path
    """core-sounds-<language>.txt or .txt.gz"""

    audio: Path
    """The folder in which ``<prompt>.wav`` stand."""


def find_tree(language: str, source: Path | None, cache: Path, origin: str) -> Tree:
    """Finds the sounds of ``language``, downloading and unpacking what is needed into ``cache``.

    Raises ``ManifestError`` if ``source`` does not have them or the download fails.
    """
    if source is not None and not source.is_dir():
        raise ManifestError(f"{source}: no such folder; give the folder with the core sounds.")
    tree = _tree_in(source, language) if source is not None else None
    if tree is not None:
        return tree
    unpacked = cache / "unpacked" / language
    if not unpacked.is_dir():
        archives = _archives(source or cache, language)
        if len(archives) < 2 and source is None:
            archives = (fetch_debian if origin == "debian" else fetch_upstream)(language, cache)
        if not archives:
            raise ManifestError(
                f"{source}: holds neither core-sounds-{language}.txt nor archives of the "
                f"asterisk-core-sounds-{language} packages; give the folder with them, or leave "
                "--source out to download them."
            )
        unpack(archives, unpacked)
    tree = _tree_in(unpacked, language)
    if tree is None:
        raise ManifestError(
            f"{unpacked}: lacks core-sounds-{language}.txt or its recordings; remove the folder "
            "and try again with both archives (text and -wav)."
        )
    return tree


def _tree_in(folder: Path, language: str) -> Tree | None:
    """The tree of Debian's packages or of upstream's archives somewhere under ``folder``."""
    for transcript in sorted(folder.rglob(f"core-sounds-{language}.txt*")):
        voices = sorted(p for p in folder.rglob(f"{language}_*") if p.is_dir())
        for audio in [*voices, transcript.parent]:
            if next(audio.glob("*.wav"), None):
                return Tree(transcript, audio)
    return None


def _archives(folder: Path, language: str) -> list[Path]:
    """The packages of one language in ``folder``: two from Debian, or one from upstream."""
    name = f"asterisk-core-sounds-{language}"
    debian = [*folder.glob(f"{name}_*.deb"), *folder.glob(f"{name}-wav_*.deb")]
    return sorted(debian) or sorted(folder.glob(f"{name}-wav-*.tar.gz"))


def fetch_debian(language: str, cache: Path) -> list[Path]:
    """Downloads the two packages of ``language`` with ``apt-get download``.

    Raises ``ManifestError`` naming the other ways if there is no apt-get or it fails.
    """
    packages = [f"asterisk-core-sounds-{language}", f"asterisk-core-sounds-{language}-wav"]
    instead = (
        "use --from upstream, or download asterisk-core-sounds-<language> and -wav yourself and "
        "give their folder with --source"
    )
    if shutil.which("apt-get") is None:
        raise ManifestError(f"apt-get is not on this system; {instead}.")
    cache.mkdir(parents=True, exist_ok=True)
    click.echo(f"downloading {' '.join(packages)}", err=True)
    problem = _apt_get(["download", *packages], cache)
    if problem and os.geteuid() == 0:
        _apt_get(["update"], cache)
        problem = _apt_get(["download", *packages], cache)
    archives = _archives(cache, language)
    if problem or len(archives) < 2:
        raise ManifestError(
            f"apt-get could not download {' '.join(packages)} ({problem or 'no file came'}); "
            f"run apt-get update as root and try again, or {instead}."
        )
    return archives


def _apt_get(arguments: list[str], folder: Path) -> str:
    """Runs apt-get in ``folder``; returns its last words if it fails, otherwise nothing."""
    done = subprocess.run(
        ["apt-get", "-q", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {done.returncode}"


def fetch_upstream(language: str, cache: Path) -> list[Path]:
    """Downloads the archive of ``language`` from asterisk.org. Raises ``ManifestError``."""
    name = f"asterisk-core-sounds-{language}-wav-{UPSTREAM_VERSION}.tar.gz"
    try:
        download_file(UPSTREAM + name, cache / name)
    except (urllib.error.URLError, OSError) as error:
        raise ManifestError(
            f"{UPSTREAM}{name}: cannot be downloaded ({error}); use --from debian, or download "
            "it yourself and give its folder with --source."
        ) from None
    return [cache / name]


def unpack(archives: list[Path], folder: Path) -> None:
    """Unpacks .deb and .tar.gz files into ``folder``, all or nothing. Raises ``ManifestError``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as temporary:
        for archive in archives:
            _unpack_one(archive, Path(temporary) / "tree")
        os.replace(Path(temporary) / "tree", folder)


def _unpack_one(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".deb":
            command = ["dpkg-deb", "-x", str(archive), str(folder)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    except FileNotFoundError:
        raise ManifestError(
            f"{archive}: dpkg-deb is needed to unpack it and is missing; use --from upstream."
        ) from None
    except subprocess.CalledProcessError as error:
        problem = " ".join(error.stderr.split())
        raise ManifestError(
            f"{archive}: cannot be unpacked ({problem}); remove it and try again."
        ) from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ManifestError(
            f"{archive}: cannot be unpacked ({error}); remove it and try again."
        ) from None


# ---- what is said in them


def read_prompts(tree: Tree, language: str) -> tuple[list[Utterance], list[Rejected]]:
    """The prompts of ``tree`` that have a recording and a trustworthy transcript, and the others.

    A line of the transcript is ``<prompt>: <text>``; lines that begin with ";" are comments.
    Raises ``ManifestError`` if the transcript cannot be read.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    utterances, rejected = [], []
    for number, line in enumerate(_transcript_lines(tree.transcript), start=1):
        match = re.match(r"([\w/.-]+)\s*:(.*)$", line)
        if match:
            texts[match[1]].append(match[2].strip())
        elif line and not line.startswith(";"):
            rejected.append(Rejected(f"{tree.transcript.name} line {number}", "is no 'name: text'"))
    recorded = {
        str(path.relative_to(tree.audio).with_suffix("")): path
        for path in sorted(tree.audio.rglob("*.wav"))
    }
    for name in sorted(texts.keys() | recorded.keys()):
        item = f"{language}-{name.replace('/', '-')}"
        text, problem = spoken_text(name, texts.get(name, []), language)
        if name not in recorded:
            problem = "has no recording"
        if problem:
            rejected.append(Rejected(item, problem))
        else:
            voice = VOICES[language]
            utterances.append(Utterance(item, recorded[name], text, voice, language))
    return utterances, rejected


def _transcript_lines(path: Path) -> list[str]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); download it again.") from None
    return [line.strip() for line in text.split("\n")]


def spoken_text(name: str, texts: list[str], language: str) -> tuple[str, str]:
    """What is said in a prompt, normalised, and why it cannot be used (or nothing).

    ``texts`` are the transcripts that stand under this ``name``.
    """
    if name in NOT_SPEECH or name.startswith("silence/"):
        return "", "is not speech"
    if len(set(texts)) > 1:
        return "", "has two different transcripts"
    text = texts[0].removeprefix(f"{name}:").strip() if texts else ""
    if not text:
        return "", "has no transcript"
    remark = r"\[[^]]*\]|\([^)]*\)|<[^>]*>"
    if any(re.search(r"\w", bracket) for bracket in re.findall(remark, text)):
        whole = not re.search(r"\w", re.sub(remark, "", text))
        return "", "is not speech" if whole else "has a remark in brackets, so its words are unsure"
    text = re.sub(remark, " ", text)
    if re.search(r"[a-z]+(?:[-/][\w-]+)+:\s", text):
        return "", "has the transcript of another prompt in its line"
    if re.search(r"\w\?\w|\w\?\s+(?=[a-zà-ÿ])", text):
        return "", "has a letter that was lost in the transcript"
    for symbol, word in SPOKEN_SYMBOLS.get(language, {}).items():
        text = text.replace(symbol, word)
    if re.search(r"[*#/=<>$@]", text):
        return "", "has a symbol whose reading is unknown"
    text = normalize_text(text, language)
    return text, "" if text else "has no transcript"


if __name__ == "__main__":
    main()
