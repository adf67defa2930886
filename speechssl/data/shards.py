"""Writing a prepared corpus as Lhotse Shar: few large files instead of many small ones.

For moving a corpus to where it is trained on (``data.shar`` reads it), and for other programs that
read Shar (icefall, NeMo).
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import click
import soundfile
from lhotse import MonoCut, Recording
from lhotse.shar import SharWriter
from tqdm import tqdm

from speechssl.data.audio import read_cut
from speechssl.data.index import Cuts
from speechssl.data.manifest import SPLITS, cuts_path, shar_path
from speechssl.data.parallel import map_in_order
from speechssl.files import sha256, write_text
from speechssl.frames import SAMPLE_RATE

SHARD_CUTS = 1000
"""Cuts in one shard, as is Lhotse's default."""

STAMP = "shar.made_from"
"""The file beside the shards with the hash of the manifest whose cuts they are."""


def write_shards(out: Path, *, jobs: int = 1) -> None:
    """Writes ``<out>/<split>/shar/``, and its index, for each split of a prepared corpus.

    The audio is what training sees (16 kHz, one channel), as 16-bit FLAC: nothing is lost of 16-bit
    recordings at 16 kHz. A split whose shards are there, or that has nothing else, is left alone;
    half a folder never bears the name. Raises ``AudioError`` if a recording has become unreadable.
    """
    for split in SPLITS:
        path = cuts_path(out, split)
        if not path.is_file():
            continue
        folder = shar_path(out, split)
        stamp = folder.with_name(STAMP)
        made_from = sha256(path)
        if folder.is_dir() and stamp.is_file() and stamp.read_text() == made_from:
            continue
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _write_split(path, folder, jobs)
        write_text(stamp, made_from)


def _write_split(path: Path, folder: Path, jobs: int) -> None:
    cuts = Cuts.open(path)
    temporary = folder.with_name(".tmp-shar")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with SharWriter(temporary, {"recording": "flac"}, shard_size=SHARD_CUTS) as writer:
        made = map_in_order(_whole_cut, cuts, jobs=jobs)
        for cut in tqdm(made, total=len(cuts), desc=f"writing {folder}", unit="cut", disable=None):
            writer.write(cut)
    os.replace(temporary, folder)
    Cuts.open(folder)
    click.echo(f"{folder}: {len(cuts)} cuts")


def _whole_cut(cut: MonoCut) -> MonoCut:
    """The cut with a recording of its own in memory, as long as the cut."""
    encoded = io.BytesIO()
    soundfile.write(encoded, read_cut(cut).numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    recording = Recording.from_bytes(encoded.getvalue(), recording_id=cut.id)
    custom = {name: value for name, value in (cut.custom or {}).items() if name != "downmix"}
    return MonoCut(
        id=cut.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        recording=recording,
        supervisions=cut.supervisions,
        custom=custom or None,
    )
