"""What many commands have in common: where and how much to compute, and not to overwrite."""

from __future__ import annotations

from pathlib import Path

import click

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="bf16 is up to twice as fast on processors made for it (AVX-512 bf16, AMX, most GPUs), "
    "and few words change; auto is bf16 on those, else fp32. int8, for CPUs with AVX-512 VNNI, is "
    "1.2 to 1.4 times as fast as bf16 for models of base size, and hardly faster for tiny ones.",
)

batch_seconds_option = click.option(
    "--batch-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Audio computed at once, padding included. Lower it when memory runs out.  [default: 20 "
    "on a CPU, 120 on a GPU]",
)


def write_once(path: Path | None, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if a file is at ``path`` and must not be replaced."""
    from speechssl.errors import RunFolderError

    if path is not None and path.exists() and not overwrite:
        raise RunFolderError(f"{path}: exists; give --overwrite to replace it.")
