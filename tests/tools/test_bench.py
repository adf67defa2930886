"""tools/bench: counts, ratios and reports by themselves, and a whole quick run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2Config, Wav2Vec2Model

from speechssl.devices import multiplies_int8
from speechssl.errors import ConfigError
from speechssl.models.encoder import Encoder
from speechssl.models.frontend import FrontendConfig
from speechssl.models.presets import encoder_config
from tools.bench import __main__ as command
from tools.bench.__main__ import in_turn
from tools.bench.cases import Case, all_cases, by_length, choose_cases, corpus_seconds
from tools.bench.contest import Contest, Options
from tools.bench.flops import forward_flops, step_flops
from tools.bench.report import Row, markdown, with_ratios, write_report
from tools.bench.systems import Setup
from tools.bench.systems import speechssl as speechssl_system

Tool = Callable[..., tuple[int, str, str]]

MACHINE = {
    "device": "cpu",
    "cpu": "a processor",
    "cpus": 2,
    "gpu": None,
    "commit": "0123456789ab",
    "command": "python -m tools.bench out",
    "versions": {"torch": "2.9.1"},
    "matmul_flops_per_second": {"bf16": 2e12},
}


def row(system: str, seconds: float, dtype: str = "bf16", **changes: Any) -> Row:
    """A row of a case with 60 s of audio."""
    plain = Row(
        case="pretrain",
        system=system,
        dtype=dtype,
        audio_seconds_per_second=60 / seconds,
        peak_memory_gb=1.5,
        ratio_to_fastest_peer=None,
        seconds=seconds,
        seconds_min=seconds - 0.5,
        seconds_max=seconds + 0.5,
        rounds=3,
        cold=False,
        flops_per_second=1e12,
        flop_share=0.5,
        padding_share=None,
        peer=system != "speechssl",
        same_network=True,
        settings="as trained",
    )
    return replace(plain, **changes)


def test_with_ratios_compares_with_the_fastest_peer_at_its_best_setting() -> None:
    rows = with_ratios(
        [
            row("speechssl", 1.0, "bf16"),
            row("transformers", 6.0, "bf16"),
            row("fairseq2", 4.0, "bf16"),
            row("speechssl", 2.0, "fp32"),
            row("transformers", 3.0, "fp32"),  # faster than anybody's bf16
            row("speechssl", 1.0, "", case="alone"),
        ]
    )
    ratios = [r.ratio_to_fastest_peer for r in rows]
    assert ratios == [3.0, 0.5, 0.75, 1.5, 1.0, None]


def test_with_ratios_lets_no_bf16_peer_stand_against_fp32() -> None:
    rows = with_ratios(
        [row("speechssl", 2.0, "fp32"), row("fairseq2", 1.0, "bf16"), row("fairseq2", 8.0, "fp32")]
    )
    assert rows[0].ratio_to_fastest_peer == 4.0


def test_with_ratios_compares_int8_with_any_peer() -> None:
    rows = [
        row("speechssl", 1.0, "int8"),
        row("fairseq2", 4.0, "bf16"),
        row("fairseq2", 3.0, "fp32"),
    ]
    assert with_ratios(rows)[0].ratio_to_fastest_peer == 3.0


def test_markdown_marks_another_network_and_lists_notes() -> None:
    rows = with_ratios(
        [
            row("speechssl", 1.0),
            row("speechssl recipe", 0.5, peer=False, same_network=False),
            row("fairseq2", 4.0, padding_share=0.031, rounds=1, cold=True),
        ]
    )
    text = markdown(rows, MACHINE, ["torchaudio: not there"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "| **speechssl** " in lines[2]
    assert " 4.00 " in lines[2]
    assert "1 (0.5 to 1.5)" in lines[2]
    assert "| 3 " in lines[2]
    assert " 8.00 \\* " in lines[3]
    assert "| 1, cold |" in lines[4]
    assert " 3.1 % " in lines[4]
    assert "2.00 TFLOP/s" in text
    assert text.endswith("- torchaudio: not there\n")


def test_write_report_writes_a_list_of_rows_and_a_figure(tmp_path: Path) -> None:
    rows = [*with_ratios([row("speechssl", 1.0), row("fairseq2", 4.0)])]
    rows.append(row("speechssl", 0.2, "", case="start-up", audio_seconds_per_second=None))
    text = write_report(tmp_path, rows, MACHINE, ["a note"])
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert [Row(**values) for values in saved] == rows
    assert list(saved[0])[:6] == [
        "case",
        "system",
        "dtype",
        "audio_seconds_per_second",
        "peak_memory_gb",
        "ratio_to_fastest_peer",
    ]
    assert json.loads((tmp_path / "machine.json").read_text()) == {**MACHINE, "notes": ["a note"]}
    assert (tmp_path / "bench.md").read_text() == text
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_forward_flops_are_those_that_torch_counts_in_transformers() -> None:
    config = encoder_config(
        "tiny",
        {
            "frontend": {"kind": "waveform", "channels": 24},
            "layers": 2,
            "dim": 32,
            "squeeze": 1,
            "convolution_kernel": 0,
        },
    )
    model = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=1024,
            conv_dim=(24,) * 7,
            num_conv_pos_embeddings=32,
            do_stable_layer_norm=True,
            attn_implementation="eager",
        )
    ).eval()
    samples = 32_017
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, samples))
    ours = forward_flops(config, samples)
    frames = 1 + (samples - 400) // 320
    even_kernel = (frames + 1) / frames  # transformers computes a frame more and cuts it off
    position = 2.0 * frames * 32 * 32 // 16 * 32
    expected = ours.first_layer + ours.frontend + ours.body + position * (even_kernel - 1)
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)


def test_forward_flops_are_those_that_torch_counts_in_a_squeezed_conformer() -> None:
    config = encoder_config("tiny", {"position_kernel": 31, "layers": 2, "dim": 64})
    encoder = Encoder(config).eval()
    samples = 320 * 100 + 80  # 100 frames, 50 joined ones
    inputs = torch.randn(1, 100, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.contextualize(inputs, torch.tensor([100]))
    projection = 2.0 * 100 * 160 * 64
    assert counter.get_total_flops() + projection == forward_flops(config, samples).body


def test_step_flops_count_the_backward_pass_of_what_learns() -> None:
    cases = {case.name: case for case in all_cases()}
    inference = step_flops(
        replace(cases["inference-tiny"], seconds=(2.0,)), cases["finetune-tiny"].encoder
    )
    forward = forward_flops(cases["finetune-tiny"].encoder, 32_000)
    assert inference == forward.first_layer + forward.frontend + forward.body
    pretrain = step_flops(
        replace(cases["pretrain-clusters-tiny"], seconds=(2.0,)), cases["finetune-tiny"].encoder
    )
    assert pretrain == 3 * inference - forward.first_layer
    fbank = forward_flops(encoder_config("tiny"), 32_000)
    assert (fbank.first_layer, fbank.frontend) == (0, 0)


def test_corpus_lengths_are_like_librispeech() -> None:
    lengths = corpus_seconds(240)
    assert len(set(lengths)) == 240
    assert 12 < sum(lengths) / 240 < 13
    assert (min(lengths) >= 2, max(lengths) <= 16.5) == (True, True)
    assert list(lengths) != sorted(lengths)


def test_by_length_keeps_within_the_budget() -> None:
    batches = by_length([5, 1, 4, 9, 4], budget=12)
    assert batches == [[3], [0, 2], [4, 1]]


def test_choose_cases_names_the_nearest_case() -> None:
    assert [case.name for case in choose_cases("finetune,start-up-h")] == [
        "finetune-base",
        "finetune-tiny",
        "start-up-help",
    ]
    with pytest.raises(ConfigError, match="pretrain-clusters-tiny"):
        choose_cases("pretrain-cluster-tiny")


def test_the_tiny_cases_have_the_dimensions_of_the_preset() -> None:
    plain = {"frontend": FrontendConfig(), "squeeze": 1, "convolution_kernel": 0}
    preset = replace(encoder_config("tiny"), **plain)
    for case in all_cases():
        if case.name.endswith("-tiny"):
            channels = replace(case.encoder.frontend, channels=512)
            assert replace(case.encoder, frontend=channels) == preset


@pytest.mark.parametrize("name", ["pretrain-contrastive", "pretrain-clusters", "finetune"])
def test_the_variant_recipe_has_the_network_of_the_recipes(name: str, tmp_path: Path) -> None:
    case = next(case for case in all_cases(quick=True) if case.name == f"{name}-tiny")
    assert "speechssl recipe" in case.systems
    work = getattr(speechssl_system, case.kind)(
        Setup(case, "recipe", torch.device("cpu"), tmp_path)
    )
    dropout = 0.2 if name == "finetune" else 0.1
    assert work.network == encoder_config("tiny", {"dropout": dropout})
    assert work.settings.startswith("fbank, Conformer on 40 ms; recipes/")
    assert torch.isfinite(work.run())


def test_every_case_comes_once_before_any_comes_again() -> None:
    cases = all_cases()
    turns = in_turn(cases)
    assert [case.name for case, _ in turns[: len(cases)]] == [case.name for case in cases]
    assert {dtype for _, dtype in turns[len(cases) :]} == {"fp32"}
    assert len(turns) == sum(len(case.dtypes) for case in cases) == len(set(map(_name, turns)))


def _name(turn: tuple[Case, str]) -> tuple[str, str]:
    return turn[0].name, turn[1]


def test_a_quick_run_times_two_systems_on_the_same_weights(tmp_path: Path, tool: Tool) -> None:
    status, printed, _ = tool(
        command,
        tmp_path / "out",
        "--quick",
        *("--cases", "inference-tiny", "--systems", "speechssl,transformers"),
        *("--threads", "1", "--device", "cpu", "--precision", "fp32"),
    )
    assert status == 0
    rows = [Row(**values) for values in json.loads((tmp_path / "out/bench.json").read_text())]
    systems = ["speechssl", "transformers", "transformers one-batch"]
    assert [(found.system, found.dtype) for found in rows] == [(name, "fp32") for name in systems]
    for found in rows:
        assert (found.rounds, found.cold) == (2, False)
        assert found.audio_seconds_per_second == pytest.approx(4.5 / found.seconds)
        assert found.seconds_min <= found.seconds <= found.seconds_max
        assert found.peak_memory_gb > 0.1
        assert found.ratio_to_fastest_peer is not None
        assert found.flop_share is not None
    assert "transformers' weights, outputs agree" in rows[0].settings
    assert json.loads((tmp_path / "out/machine.json").read_text())["notes"] == []
    assert printed == (tmp_path / "out/bench.md").read_text()


def test_without_time_each_case_has_a_cold_step_in_its_first_precision(
    tmp_path: Path, tool: Tool
) -> None:
    status, _, errors = tool(
        command,
        tmp_path / "out",
        "--quick",
        *("--cases", "inference-tiny,start-up-help", "--systems", "speechssl"),
        *("--threads", "1", "--device", "cpu", "--minutes", "0.001"),
    )
    assert status == 0, errors
    rows = [Row(**values) for values in json.loads((tmp_path / "out/bench.json").read_text())]
    int8 = ["int8"] if multiplies_int8(torch.device("cpu")) else []
    assert [found.dtype for found in rows] == ["bf16", *int8]
    for found in rows:
        assert (found.case, found.system) == ("inference-tiny", "speechssl")
        assert (found.rounds, found.cold) == (1, True)
    assert json.loads((tmp_path / "out/machine.json").read_text())["notes"] == [
        "start-up-help: left out, no time was left",
        "inference-tiny fp32: left out, no time was left",
    ]


def test_a_bad_manifest_is_refused(tmp_path: Path, tool: Tool) -> None:
    cuts = tmp_path / "cuts.jsonl"
    cuts.write_text("{}\n")
    out = tmp_path / "out"
    status, _, errors = tool(command, out, "--quick", "--cases", "data", "--cuts", cuts)
    assert status == 2
    assert "cuts.jsonl" in errors


def test_a_system_that_fails_is_left_out_with_a_note(tmp_path: Path) -> None:
    options = Options(
        device="cpu",
        threads=1,
        quick=True,
        compile=False,
        step_limit=300.0,
        compile_limit=300.0,
        folder=tmp_path,
        log=tmp_path / "workers.log",
    )
    case = next(case for case in all_cases(quick=True) if case.name == "start-up-help")
    contest = Contest(options, ["speechssl", "kaldi"])
    case = replace(case, systems=(*case.systems, "kaldi"))
    rows = contest.run(case, "", 1.0, lambda who: None)
    assert [row.system for row in rows] == ["speechssl transcribe-help"]
    assert len(contest.notes) == 1
    assert contest.notes[0].startswith("start-up-help, kaldi: ModuleNotFoundError")
    assert "Traceback" in options.log.read_text()


def test_an_unknown_system_is_refused(tmp_path: Path, tool: Tool) -> None:
    status, _, errors = tool(command, tmp_path / "out", "--systems", "speechssl,fairseq")
    assert status == 2
    assert "fairseq2" in errors
    assert not (tmp_path / "out").exists()
