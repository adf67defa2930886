#!/usr/bin/env python3
"""Joins prepared corpora, to pretrain on all their recordings."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import click
from lhotse import MonoCut

from speechssl.cli.main import OneLineErrors
from speechssl.data.corpus import check_output, write_splits
from speechssl.data.corpus_report import summarize
from speechssl.data.manifest import cuts_path, hash_manifest, load_cuts, require_corpus
from speechssl.errors import ConfigError, ManifestError, RunFolderError

SPLITS = ("train", "dev")
"""What pretraining looks at. Test data of another corpus has no place beside one's own."""


@click.command(
    cls=OneLineErrors,
    epilog="\b\nExample:\n  python tools/combine.py data/together data/an4 data/core_sounds",
    help="Writes a corpus OUT whose train and dev splits are those of all the corpora DATA_DIR.",
)
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("data_dirs", metavar="DATA_DIR...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def main(out: Path, data_dirs: tuple[Path, ...], overwrite: bool) -> None:
    if len(data_dirs) < 2:
        raise ConfigError("give two corpora or more to combine.")
    different = {folder.resolve() for folder in data_dirs}
    if len(different) < len(data_dirs):
        raise ConfigError("one corpus is given twice; give each once.")
    if out.resolve() in different:
        raise RunFolderError(f"{out}: is one of the corpora; name another folder.")
    for folder in data_dirs:
        require_corpus(folder)
    files = [cuts_path(folder, split) for folder in data_dirs for split in SPLITS]
    hashes = [hash_manifest(file) for file in files if file.exists()]
    fingerprint = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    if check_output(out, fingerprint, overwrite):
        click.echo(f"{out}: already these corpora; nothing to do.")
        return
    splits = join(data_dirs)
    report = summarize(" and ".join(map(str, data_dirs)), splits, fingerprint)
    write_splits(out, splits, report)
    click.echo(report.short(), nl=False)


def join(data_dirs: tuple[Path, ...]) -> dict[str, list[MonoCut]]:
    """The cuts of each split of all corpora; dev may be missing.

    Raises ``ManifestError`` if a train split is missing or an id is in two corpora, be it in
    different splits: what one of them holds out the other would train on.
    """
    owners: dict[str, Path] = {}
    splits: dict[str, list[MonoCut]] = {split: [] for split in SPLITS}
    for folder, split in itertools.product(data_dirs, SPLITS):
        if split != "train" and not cuts_path(folder, split).exists():
            continue
        for cut in load_cuts(cuts_path(folder, split)):
            other = owners.setdefault(cut.id, folder)
            if other != folder:
                raise ManifestError(
                    f"{cuts_path(folder, split)}: the id {cut.id!r} is also in {other}; are the "
                    "same recordings in both? If not, put those of one into a folder of another "
                    "name and prepare them from the folder above."
                )
            splits[split].append(cut)
    return splits


if __name__ == "__main__":
    main()
