"""``speechssl transcribe`` on a folder of short files, beside transformers' pipeline.

    python -m tools.bench.many_files exp/many-files data/an4/test/cuts.jsonl.gz --files 1000

Both get the same weights (a tiny network with the waveform frontend, drawn at random and exported)
and the same files, both take a process from its start to its end, in turns. The pipeline gets
the samples as arrays, so that it does not need FFmpeg, with its default batch of one file and with
``--batch-size``.
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
from speechssl.errors import ConfigError
from speechssl.files import write_text
from speechssl.interop.projects import load_project
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config
from speechssl.tables import table

OURS = "speechssl transcribe"

PLAIN = {
    "frontend": {"kind": "waveform", "channels": 256},
    "squeeze": 1,
    "convolution_kernel": 0,
}
"""The tiny network as transformers has it."""

PIPELINE = """
import json, sys
from pathlib import Path
import soundfile, transformers
from transformers import pipeline

transformers.utils.logging.set_verbosity_error()
model, audio, out, size = sys.argv[1:]
recognize = pipeline("automatic-speech-recognition", model=model)
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
@click.option("--batch-size", default=8, show_default=True, help="The pipeline's second setting.")
def main(out: Path, cuts: Path, files: int, rounds: int, batch_size: int) -> None:
    """Times both on the recordings of CUTS (over and over) and writes OUT/many_files.json.

    \b
    Example:
      python -m tools.bench.many_files exp/many-files data/an4/test/cuts.jsonl.gz
    """
    if out.exists():
        raise ConfigError(f"{out}: exists; give a new folder.")
    audio = collect(cuts, out / "audio", files)
    make_models(out / "model", out / "exported")
    settings = dict.fromkeys([1, batch_size])
    commands = {OURS: _ours(out)} | {
        f"transformers, batch of {size}": _theirs(out, size) for size in settings
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            if name == OURS:
                shutil.rmtree(out / "texts", ignore_errors=True)
            start = time.monotonic()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            seconds[name].append(time.monotonic() - start)
    agreeing = count_equal(out)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    fastest = min(time for name, time in medians.items() if name != OURS)
    report = {
        "command": ["python", "-m", "tools.bench.many_files", *sys.argv[1:]],
        "files": files,
        "audio_seconds": round(audio, 1),
        "seconds": {name: [round(t, 1) for t in times] for name, times in seconds.items()},
        "ratio_to_fastest": round(fastest / medians[OURS], 2),
        "equal_texts": agreeing,
    }
    write_text(out / "many_files.json", json.dumps(report, indent=2) + "\n")
    rows = [["system", "seconds", "times real time"]]
    rows += [[name, f"{time:.1f}", f"{audio / time:.0f}"] for name, time in medians.items()]
    click.echo(table(rows))
    click.echo(f"{report['ratio_to_fastest']} times the pipeline at its best; ", nl=False)
    click.echo(f"{agreeing} of {files} texts are equal")


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


def make_models(folder: Path, exported: Path) -> None:
    """A recogniser with random weights, as a model folder and as transformers loads it."""
    torch.manual_seed(0)
    tokens = Tokens.from_texts(["abcdefghijklmnopqrstuvwxyz'"])
    model = CTCModel(Encoder(encoder_config("tiny", PLAIN)), len(tokens))
    with torch.no_grad():
        model.head.weight.normal_(std=1.0)  # so that it writes something
        model.head.bias.zero_()
    save_model_folder(folder, model.eval(), tokens=tokens)
    load_project("transformers").export_model(folder, exported)


def _ours(out: Path) -> list[str]:
    command = [sys.executable, "-m", "speechssl.cli.main", "transcribe"]
    return [*command, str(out / "model"), str(out / "audio"), "--output-dir", str(out / "texts")]


def _theirs(out: Path, size: int) -> list[str]:
    places = [out / "exported", out / "audio", out / f"pipeline-{size}.json"]
    return [sys.executable, "-c", PIPELINE, *map(str, places), str(size)]


def count_equal(out: Path) -> int:
    """Files of which both wrote the same text, spaces aside."""
    theirs = json.loads((out / "pipeline-1.json").read_text())
    ours = {path.name.split(".")[0]: path.read_text() for path in (out / "texts").glob("*.txt")}
    return sum("".join(ours[stem].split()) == "".join(theirs[stem].split()) for stem in theirs)


if __name__ == "__main__":
    main(prog_name="python -m tools.bench.many_files")
