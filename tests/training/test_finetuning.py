"""Real fine-tuning runs of a micro model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from lhotse import CutSet
from torch.distributions import Categorical, kl_divergence

from speechssl.cli.main import group
from speechssl.data.batch import SpeechBatch, collate
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.text import Tokens, ctc_frames
from speechssl.models.ctc import CTCModel
from speechssl.models.dropout import Dropout
from speechssl.models.encoder import Encoder
from speechssl.models.folder import load_ctc, save_model_folder
from speechssl.training.finetuning import (
    FinetuneModel,
    blank_share,
    consistency_loss,
    mask_channels,
)
from speechssl.training.recipe import FinetuneConfig, encoder_settings
from speechssl.training.run_folder import RunFolder
from tests.training.conftest import MICRO_MODEL


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments])


def rows(exp: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (exp / "metrics" / f"{name}.jsonl").open()]


def rewrite(data: Path, split: str, texts: list[str | None]) -> None:
    """Gives the first cuts of a split other transcripts; None takes the transcript away."""
    cuts = list(load_cuts(cuts_path(data, split)))
    for cut, text in zip(cuts, texts):
        cut.supervisions[0].text = text
    CutSet.from_cuts(cuts).to_file(cuts_path(data, split))


def micro_model(tokens: Tokens, **settings: object) -> FinetuneModel:
    torch.manual_seed(0)
    encoder = Encoder(encoder_settings({**MICRO_MODEL, "dropout": 0.0}))
    config = FinetuneConfig(time_mask=0.0, channel_mask=0.0, **settings)  # type: ignore[arg-type]
    return FinetuneModel(CTCModel(encoder, len(tokens)), config, tokens)


def repeated(batch: SpeechBatch) -> SpeechBatch:
    """Each recording twice, as consistency has them."""
    assert batch.tokens is not None
    waveforms = [w[:n] for w, n in zip(batch.waveforms, batch.lengths.tolist())] * 2
    tokens = [t[t != 0].tolist() for t in batch.tokens] * 2
    return collate(waveforms, tokens=tokens, texts=batch.texts * 2)


def test_it_learns_the_toy_corpus(corpus_copy: Path, finetune_recipe: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    longer = ["training.updates=240", "training.validate_every=120", "training.log_every=40"]
    result = cli(
        "finetune", finetune_recipe, corpus_copy, exp, "--init", "none", *longer,
        "optimizer.lr=4e-3", "model.dropout=0.0",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first, last = rows(exp, "train")[0], rows(exp, "train")[-1]
    assert last["loss"] < 0.3 * first["loss"]
    assert 0 < last["blank_share"] < 1
    assert rows(exp, "valid")[-1]["cer"] < 0.5
    assert rows(exp, "valid")[-1]["wer"] <= 1.0
    _, tokens = load_ctc(exp / "model")
    assert set("abcdefgh") == set(tokens.symbols[2:])


def test_it_starts_from_a_pretrained_encoder_in_any_script(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    encoder = Encoder(encoder_settings(MICRO_MODEL))
    save_model_folder(tmp_path / "pretrained", encoder)
    for split in ("train", "dev"):
        rewrite(corpus_copy, split, ["привет мир"] * 20)
    exp = tmp_path / "exp"
    arguments = [finetune_recipe, corpus_copy, exp, "--init", tmp_path / "pretrained"]
    whole_run_frozen = ["finetune.freeze_encoder=0.99"]
    result = cli("finetune", *arguments, *whole_run_frozen)
    assert result.exit_code == 0, result.output
    model, tokens = load_ctc(exp / "model")
    assert tokens.decode(tokens.encode("привет мир")) == "привет мир"
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), "the encoder was frozen"


def test_the_encoder_is_released_after_its_share() -> None:
    tokens = Tokens.from_texts(["ab"])
    model = micro_model(tokens, freeze_encoder=0.5)
    batch = collate([torch.randn(8000)], tokens=[tokens.encode("ab")], texts=["ab"])
    for progress, learns in ((0.0, False), (0.49, False), (0.5, True)):
        model.zero_grad()
        model.set_progress(progress)
        model(batch).sum.backward()
        gradients = [p.grad is not None for p in model.model.encoder.layers.parameters()]
        assert all(gradients) if learns else not any(gradients)
        assert model.model.head.weight.grad is not None


def test_the_loss_is_torch_ctc_of_the_plain_model() -> None:
    tokens = Tokens.from_texts(["ab ba"])
    model = micro_model(tokens).eval()
    texts = ["ab ba", "b"]
    batch = collate(
        [torch.randn(16000), torch.randn(9000)], tokens=[tokens.encode(t) for t in texts]
    )
    loss = model(batch)
    singly = 0.0
    for waveform, length, text in zip(batch.waveforms, batch.lengths, texts):
        log_probs, frames = model.model(waveform[None, :length], length[None])
        target = torch.tensor([tokens.encode(text)])
        singly += torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1), target, frames, torch.tensor([len(text)]), reduction="sum"
        ).item()
    assert loss.sum.item() == pytest.approx(singly, rel=1e-4)
    assert int(loss.count) == len("ab ba") + len("b")


def test_transcripts_that_cannot_fit_are_left_out_with_a_warning(
    corpus_copy: Path,
    finetune_recipe: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rewrite(corpus_copy, "train", ["ab" * 200, None, None])
    name = next(iter(load_cuts(cuts_path(corpus_copy, "train")))).id
    exp = tmp_path / "exp"
    result = cli("finetune", finetune_recipe, corpus_copy, exp, "--init", "none")
    assert result.exit_code == 0, result.output
    (warning,) = [r.getMessage() for r in caplog.records if name in r.getMessage()]
    assert "its transcript needs 400 frames" in warning
    assert "left out 2 cuts without transcript" in caplog.text


@pytest.mark.parametrize(("text", "frames"), [("", 0), ("abc", 3), ("aab", 4), ("aaa", 5)])
def test_ctc_needs_a_blank_between_equal_tokens(text: str, frames: int) -> None:
    assert ctc_frames([ord(letter) for letter in text]) == frames


def test_bad_input_is_refused_before_the_run(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"

    def refused(*more: object, init: object = "none") -> str:
        result = cli("finetune", finetune_recipe, corpus_copy, exp, "--init", init, *more)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        assert not exp.exists()
        (line,) = result.output.splitlines()
        return line

    assert "did you mean 'lr'" in refused("optimizer.lrr=1")
    assert "config.yaml" in refused(init=tmp_path)
    rewrite(corpus_copy, "train", [None] * 12)
    assert "has no transcript" in refused()
    rewrite(corpus_copy, "train", ["ab" * 500] * 12)
    assert "no cut is left" in refused()


def test_channel_masks_zero_whole_channels_of_a_recording() -> None:
    torch.manual_seed(0)
    masked = mask_channels(torch.ones(4, 7, 64), probability=0.5, span=8)
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert (masked == masked[:, :1]).all(), "the same channels in every frame"
    assert 0.2 < masked.mean() < 0.9


def test_the_lower_half_of_the_encoder_has_its_share_of_the_loss() -> None:
    tokens = Tokens.from_texts(["ab"])
    batch = collate([torch.randn(16000)], tokens=[tokens.encode("ab")], texts=["ab"])

    def loss(weight: float, layers: int) -> float:
        model = micro_model(tokens, intermediate_ctc=weight).eval()
        model.model.encoder.layers = model.model.encoder.layers[:layers]
        return float(model(batch).sum.detach())

    whole, half = loss(0.0, layers=2), loss(0.0, layers=1)
    assert whole != half
    assert loss(0.25, layers=2) == pytest.approx(0.75 * whole + 0.25 * half, rel=1e-5)


def test_two_views_disagree_by_the_mean_of_both_divergences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 5, 3, requires_grad=True)
    frames = torch.tensor([5, 3, 5, 3])
    loss = consistency_loss(logits.log_softmax(-1), frames)
    expected = torch.zeros(())
    for recording, count in enumerate([5, 3]):
        first, second = (Categorical(logits=view[recording, :count]) for view in logits.chunk(2))
        both = kl_divergence(first, second) + kl_divergence(second, first)
        expected += both.sum() / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    probs = logits.detach().softmax(-1)
    towards = (probs - torch.cat([probs[2:], probs[:2]])) / 2  # each view is the other's target
    towards[[1, 3], 3:] = 0.0
    torch.testing.assert_close(logits.grad, towards)


def test_two_views_cost_their_mean_and_what_they_disagree_by() -> None:
    tokens = Tokens.from_texts(["ab"])
    batch = collate(
        [torch.randn(16000), torch.randn(9000)],
        tokens=[tokens.encode("ab"), tokens.encode("b")],
        texts=["ab", "b"],
    )
    plain, twice = micro_model(tokens).train(), micro_model(tokens, consistency=0.5).train()
    same = twice(batch)
    assert float(same.sum.detach()) == pytest.approx(float(plain(batch).sum.detach()), rel=1e-5)
    assert same.metrics["disagreement"][0] == pytest.approx(0.0, abs=1e-5), "nothing is random"
    assert same.metrics["disagreement"][1] == 49 + 27

    for model in (plain, twice):
        model.model.dropout = Dropout(0.5)
    torch.manual_seed(1)
    losses = plain(repeated(batch))  # as many random numbers for as many recordings
    torch.manual_seed(1)
    mean_and_more = twice(batch)
    disagreement = float(mean_and_more.metrics["disagreement"][0])
    assert disagreement > 0
    expected = float(losses.sum.detach()) / 2 + 0.5 * disagreement
    assert float(mean_and_more.sum.detach()) == pytest.approx(expected, rel=1e-5)
    assert "disagreement" not in twice.eval()(batch).metrics, "valid loss is of one view"


def test_the_blank_of_the_finished_recogniser_has_its_penalty(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    penalty = ["finetune.blank_penalty=1.5", "--init", "none"]
    assert cli("finetune", finetune_recipe, corpus_copy, exp, *penalty).exit_code == 0
    folder = RunFolder(exp)
    trained = folder.load_weights(folder.choose("best"))["model.head.bias"]
    model, tokens = load_ctc(exp / "model")
    expected = trained - 1.5 * torch.eye(len(tokens))[0]
    torch.testing.assert_close(model.head.bias.detach(), expected)

    batch = collate([torch.randn(16000)], tokens=[[1]], texts=["ab"])
    named = Tokens.from_texts(["ab"])
    assert micro_model(named).evaluate(batch)["blank_share"][0] == 49
    assert micro_model(named, blank_penalty=100.0).evaluate(batch)["blank_share"][0] == 0


def test_a_transcript_that_fits_at_no_other_speed_is_learnt_at_its_own() -> None:
    text = "ab" * 15  # 30 of the 49 frames, 24 at twice the speed
    tokens = Tokens.from_texts([text])
    model = micro_model(tokens, speeds=(2.0,))
    batch = collate([torch.randn(16000)], tokens=[tokens.encode(text)], texts=[text])
    loss = model(batch)
    assert float(loss.sum.detach()) > 0, "CTC would give 0 to a transcript that does not fit"


def test_from_scratch_nothing_is_frozen(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    waveform = ["model.frontend.kind=waveform", "model.frontend.channels=8"]
    frozen = ["finetune.freeze_encoder=0.99", "training.keep_last=2"]
    arguments = [finetune_recipe, corpus_copy, exp, "--init", "none", *waveform, *frozen]
    assert cli("finetune", *arguments).exit_code == 0
    early, late = (RunFolder(exp).load_weights(step) for step in (4, 8))
    for name in ("frontend.layers.3.weight", "layers.0.attention.out.weight"):
        assert not torch.equal(early[f"model.encoder.{name}"], late[f"model.encoder.{name}"]), name


def test_a_run_does_not_go_on_with_other_tokens(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    arguments = ["finetune", finetune_recipe, corpus_copy, exp, "--init", "none"]
    assert cli(*arguments).exit_code == 0
    rewrite(corpus_copy, "train", ["xyz"] * 12)  # of which the head's rows know nothing
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "the transcripts have changed since the run was started" in result.output
    assert set("abcdefgh") == set(Tokens.load(exp / "tokens.txt").symbols[2:])


def test_blank_share_counts_real_frames_only() -> None:
    log_probs = torch.zeros(1, 4, 3)
    log_probs[0, :2, 0] = 1.0  # blank, blank, token, then padding that looks blank
    log_probs[0, 2, 1] = 1.0
    blanks, frames = blank_share(log_probs, torch.tensor([3]))
    assert (int(blanks), int(frames)) == (2, 3)
