"""``speechssl transcribe`` on a folder of short files, beside transformers' pipeline.

    python -m tools.bench.many_files exp/many-files data/an4/test/cuts.jsonl.gz --files 1000

Both get the same weights (a network with the waveform frontend, drawn at random and exported) and
the same files. Both take a process from its start to its end, in turns: in fp32, the pipeline's
default, and in bf16, ours where the processor is made for it; ours also in int8 where it can. The
pipeline gets the samples as arrays, so that it does not need FFmpeg, with its default batch of one
file and, in fp32, with ``--batch-size`` too.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch

from speechssl.cli.main import OneLineErrors
from speechssl.data.index import Cuts
from speechssl.data.text import Tokens
from speechssl.devices import multiplies_int8
from speechssl.errors import ConfigError
from speechssl.files import write_text
from speechssl.interop.projects import load_project
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config
from speechssl.provenance import commit
from speechssl.tables import table

OURS = "speechssl transcribe"

NETWORKS = {
    "tiny": {
        "frontend": {"kind": "waveform", "channels": 256},
        "squeeze": 1,
        "convolution_kernel": 0,
    },
    "base": {},
}
"""What differs from the presets, so that transformers has the network too."""

PIPELINE = """
import json, sys
from pathlib import Path
import soundfile, transformers
from transformers import pipeline

transformers.utils.logging.set_verbosity_error()
model, audio, out, size, dtype = sys.argv[1:]
recognize = pipeline("automatic-speech-recognition", model=model, dtype=dtype)
paths = sorted(Path(audio).iterdir())

def samples():
    for path in paths:
        waveform, rate = soundfile.read(path, dtype="float32")
        yield {"raw": waveform, "sampling_rate": rate}

texts = [result["text"] for result in recognize(samples(), batch_size=int(size))]
Path(out).write_text(json.dumps(dict(zip([path.stem for path in paths], texts))))
"""


@click.command(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.argument("cuts", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--files", default=1000, show_default=True, help="Short files to transcribe.")
@click.option("--rounds", default=2, show_default=True, help="Runs of each; the median counts.")
@click.option("--size", type=click.Choice(list(NETWORKS)), default="tiny", show_default=True)
@click.option(
    "--batch-size", default=8, show_default=True, help="The pipeline's second setting; 1: none."
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "bf16", "int8"]),
    multiple=True,
    help="Of speechssl; several times for several. Without it: all that the processor has.",
)
def main(
    out: Path,
    cuts: Path,
    files: int,
    rounds: int,
    size: str,
    batch_size: int,
    precisions: tuple[str, ...],
) -> None:
    """Times both on the recordings of CUTS (over and over) and writes OUT/many_files.json.

    \b
    Example:
      python -m tools.bench.many_files exp/many-files data/an4/test/cuts.jsonl.gz
    """
    if out.exists():
        raise ConfigError(f"{out}: exists; give a new folder.")
    audio = collect(cuts, out / "audio", files)
    make_models(size, out / "model", out / "exported")
    int8 = ("int8",) if multiplies_int8(torch.device("cpu")) else ()
    dtypes = precisions or ("fp32", "bf16", *int8)
    commands = {
        ("transformers, batch of 1", "fp32"): _theirs(out, 1, "fp32"),
        (f"transformers, batch of {batch_size}", "fp32"): _theirs(out, batch_size, "fp32"),
        ("transformers, batch of 1", "bf16"): _theirs(out, 1, "bf16"),
        **{(OURS, dtype): _ours(out, dtype) for dtype in dtypes},
    }
    seconds: dict[tuple[str, str], list[float]] = {system: [] for system in commands}
    for _ in range(rounds):
        for (name, dtype), command in commands.items():
            if name == OURS:
                shutil.rmtree(out / f"texts-{dtype}", ignore_errors=True)
            start = time.monotonic()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            seconds[name, dtype].append(time.monotonic() - start)
    medians = {system: statistics.median(times) for system, times in seconds.items()}
    ratios = {dtype: _ratio(medians, dtype) for dtype in dtypes}
    default = medians["transformers, batch of 1", "fp32"]
    to_default = {dtype: round(default / medians[OURS, dtype], 2) for dtype in dtypes}
    agreeing = {dtype: count_equal(out, dtype) for dtype in dtypes}
    report = {
        "command": ["python", "-m", "tools.bench.many_files", *sys.argv[1:]],
        "commit": commit(),
        "files": files,
        "audio_seconds": round(audio, 1),
        "systems": [
            {"system": name, "dtype": dtype, "seconds": [round(t, 1) for t in times]}
            for (name, dtype), times in seconds.items()
        ],
        "ratio_to_fastest": ratios,
        "ratio_to_default": to_default,
        "texts_equal_to_fp32_pipeline": agreeing,
    }
    write_text(out / "many_files.json", json.dumps(report, indent=2) + "\n")
    rows = [["system", "dtype", "seconds", "times real time"]]
    rows += [[*system, f"{time:.1f}", f"{audio / time:.0f}"] for system, time in medians.items()]
    click.echo(table(rows))
    for dtype, ratio in ratios.items():
        click.echo(
            f"{dtype}: {ratio} times the pipeline at its best, {to_default[dtype]} times its "
            f"default (fp32, one by one); {agreeing[dtype]} of {files} texts are those of its fp32"
        )


def _ratio(medians: dict[tuple[str, str], float], dtype: str) -> float:
    """How many times as fast as the fastest pipeline we are: of fp32, or, where we compute in
    less, of any."""
    allowed = ("fp32",) if dtype == "fp32" else ("fp32", "bf16")
    peers = [time for (name, kind), time in medians.items() if kind in allowed and name != OURS]
    return round(min(peers) / medians[OURS, dtype], 2)


def collect(cuts: Path, folder: Path, files: int) -> float:
    """Links ``files`` recordings into ``folder``; returns their seconds in all."""
    folder.mkdir(parents=True)
    known = list(Cuts.open(cuts))
    total = 0.0
    for number in range(files):
        cut = known[number % len(known)]
        source = Path(cut.recording.sources[0].source)
        os.symlink(source.resolve(), folder / f"{number:05d}{source.suffix}")
        total += cut.recording.duration
    return total


def make_models(size: str, folder: Path, exported: Path) -> None:
    """A recogniser with random weights, as a model folder and as transformers loads it."""
    torch.manual_seed(0)
    tokens = Tokens.from_texts(["abcdefghijklmnopqrstuvwxyz'"])
    model = CTCModel(Encoder(encoder_config(size, NETWORKS[size])), len(tokens))
    with torch.no_grad():
        model.head.weight.normal_(std=1.0)  # so that it writes something
        model.head.bias.zero_()
    save_model_folder(folder, model.eval(), tokens=tokens)
    load_project("transformers").export_model(folder, exported)


def _ours(out: Path, dtype: str) -> list[str]:
    command = [sys.executable, "-m", "speechssl.cli.main", "transcribe"]
    places = [out / "model", out / "audio", "--output-dir", out / f"texts-{dtype}"]
    return [*command, *map(str, places), "--precision", dtype]


def _theirs(out: Path, size: int, dtype: str) -> list[str]:
    places = [out / "exported", out / "audio", out / f"pipeline-{size}-{dtype}.json"]
    name = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
    return [sys.executable, "-c", PIPELINE, *map(str, places), str(size), name]


def count_equal(out: Path, dtype: str) -> int:
    """Files of which we in ``dtype`` and the pipeline in fp32 wrote the same, spaces aside."""
    theirs = json.loads((out / "pipeline-1-fp32.json").read_text())
    texts = (out / f"texts-{dtype}").glob("*.txt")
    ours = {path.name.split(".")[0]: path.read_text() for path in texts}
    return sum("".join(ours[stem].split()) == "".join(theirs[stem].split()) for stem in theirs)


if __name__ == "__main__":
    main(prog_name="python -m tools.bench.many_files")
