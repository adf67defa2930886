"""The command: runs the cases one after another and writes the report."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import click
import torch
from tqdm import tqdm

from speechssl.cli.main import OneLineErrors
from speechssl.config import unknown_key
from speechssl.errors import ConfigError, MissingExtraError
from tools.bench.cases import PEERS, Case, choose_cases
from tools.bench.contest import Contest, Options, missing_peers
from tools.bench.corpus import prepare_corpus
from tools.bench.machine import cpu_count, describe
from tools.bench.report import Row, with_ratios, write_report

SYSTEMS = ("speechssl", *PEERS)

PROGRESS = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, left {remaining}"
"""The progress bar, in tqdm's fields."""


@click.command(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--cases", default="all", help="Comma-separated starts of case names.")
@click.option("--systems", default=",".join(SYSTEMS), help="Comma-separated systems.")
@click.option(
    "--precision", type=click.Choice(["bf16", "fp32"]), help="One of them [default: both]."
)
@click.option("--device", default="auto", help="cpu, cuda, or auto for the GPU if there is one.")
@click.option("--threads", type=int, help="CPU threads of each system [default: all CPUs].")
@click.option("--minutes", default=28.0, show_default=True, help="Time in all.")
@click.option("--compile", "compile_", is_flag=True, help="Try torch.compile for every system.")
@click.option("--compile-limit", default=300.0, show_default=True, help="Seconds for each trial.")
@click.option("--step-limit", default=600.0, show_default=True, help="Seconds until one has hung.")
@click.option(
    "--cuts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Manifest for data loading (whole 16 kHz files) [default: generated files].",
)
@click.option("--quick", is_flag=True, help="Tiny networks on a second of audio: a test.")
@click.option("--require-peers", is_flag=True, help="Fail where a peer is not installed.")
def main(
    out: Path,
    cases: str,
    systems: str,
    precision: str | None,
    device: str,
    threads: int | None,
    minutes: float,
    compile_: bool,
    compile_limit: float,
    step_limit: float,
    cuts: Path | None,
    quick: bool,
    require_peers: bool,
) -> None:
    """Times speechssl, transformers, torchaudio and fairseq2 on the same work.

    Writes bench.json, bench.md, bench.png, machine.json and workers.log to the folder OUT.

    \b
    Examples:
      python -m tools.bench exp/bench
      python -m tools.bench exp/bench --cases pretrain,inference --device cuda --compile
      python -m tools.bench exp/bench --quick
    """
    chosen = choose_cases(cases, quick)
    if precision is not None:
        chosen = [_only(case, precision) for case in chosen]
    taking_part = _choose_systems(systems, require_peers)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    machine = {"started": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC", **describe(device)}
    machine["command"] = shlex.join(["python", "-m", "tools.bench", *sys.argv[1:]])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        options = Options(
            device=device,
            threads=threads or cpu_count(),
            quick=quick,
            compile=compile_,
            step_limit=step_limit,
            compile_limit=compile_limit,
            folder=Path(temporary),
            log=out / "workers.log",
        )
        options.log.unlink(missing_ok=True)
        contest = Contest(options, taking_part)
        absent = [peer for peer in PEERS if peer not in taking_part]
        contest.notes += [f"{peer}: not installed, left out" for peer in missing_peers()]
        contest.notes += [
            f"{case.name}: {peer} {reason}"
            for case in chosen
            for peer, reason in case.absent.items()
            if peer not in absent
        ]
        machine["threads"] = options.threads
        start = time.monotonic()

        def report(rows: list[Row]) -> str:
            machine["minutes"] = round((time.monotonic() - start) / 60, 1)
            machine["matmul_flops_per_second"] = contest.ceilings
            return write_report(out, rows, machine, contest.notes)

        rows = _run(contest, chosen, 60 * minutes, cuts, report)
    click.echo(report(rows), nl=False)
    click.echo(f"\n{out}: bench.md, bench.json, bench.png, machine.json", err=True)


def _only(case: Case, precision: str) -> Case:
    return replace(case, dtypes=(precision,)) if precision in case.dtypes else case


def _choose_systems(systems: str, require_peers: bool) -> list[str]:
    """Those named, without the peers that are not installed."""
    names = [name.strip() for name in systems.split(",")]
    for name in names:
        if name not in SYSTEMS:
            raise ConfigError(unknown_key("--systems", name, list(SYSTEMS)))
    missing = [peer for peer in missing_peers() if peer in names]
    for peer in missing:
        text = f"{peer} is not installed; pip install -e '.[bench]' brings all peers"
        if require_peers:
            raise MissingExtraError(f"{text}.")
        click.echo(f"note: {text}; going on without it.", err=True)
    return [name for name in names if name not in missing]


def in_turn(cases: list[Case]) -> list[tuple[Case, str]]:
    """Every case in its first precision, then every case in its second: where the time is too
    short for all, each case has something to show."""
    precisions = max((len(case.dtypes) for case in cases), default=0)
    return [
        (case, case.dtypes[number])
        for number in range(precisions)
        for case in cases
        if number < len(case.dtypes)
    ]


def _run(
    contest: Contest,
    cases: list[Case],
    seconds: float,
    cuts: Path | None,
    report: Callable[[list[Row]], object],
) -> list[Row]:
    """All cases in turn, each with its share of the time that is left; a ``report`` of all rows
    after each, so that a run which is stopped leaves what it measured."""
    rows: list[Row] = []
    start = time.monotonic()
    turns = in_turn(cases)
    names = [case.name for case in cases]
    with tqdm(total=seconds, bar_format=PROGRESS, disable=None) as bar:

        def progress(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.n = min(seconds, time.monotonic() - start)
            bar.refresh()

        for number, (case, dtype) in enumerate(turns):
            label = f"{case.name} {dtype}".strip()
            left = start + seconds - time.monotonic()
            if left < contest.least_seconds(case):
                contest.notes.append(f"{label}: left out, no time was left")
                continue
            if case.kind == "loading":
                case = prepare_corpus(case, contest.options.folder, cuts)
            share = case.minutes / sum(later.minutes for later, _ in turns[number:])
            rows += contest.run(case, dtype, share * left, progress)
            rows.sort(key=lambda row: names.index(row.case))
            rows = with_ratios(rows)
            report(rows)
            if bar.disable:
                minutes = (time.monotonic() - start) / 60
                click.echo(f"{label}: {minutes:.1f} of {seconds / 60:g} min", err=True)
    return rows


if __name__ == "__main__":
    main(prog_name="python -m tools.bench")
