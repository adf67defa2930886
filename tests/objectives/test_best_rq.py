"""BEST-RQ against the paper's definition, frame by frame and codebook by codebook."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FbankFrontend
from speechssl.objectives.best_rq import BestRQ, BestRQConfig, RandomProjectionQuantizer
from speechssl.objectives.masking import MaskConfig
from speechssl.objectives.refinement import RefinementConfig
from speechssl.training.pretraining import PretrainModel
from tests.contracts.test_synchronisation import META, NoBlockingCopies
from tests.contracts.toys import toy_batch
from tests.objectives.small import FBANK, WAVEFORM, batch_of

FEW_CODES = BestRQConfig(codebooks=3, entries=12, codeword_size=5)


def slow_code(frame: Tensor, projection: Tensor, codebook: Tensor) -> int:
    """Section 3.1: the entry whose direction is nearest to that of the projected frame."""
    projected = projection.T @ frame
    projected = projected / projected.norm()
    return min(
        range(len(codebook)),
        key=lambda entry: float((codebook[entry] / codebook[entry].norm() - projected).norm()),
    )


def test_codes_are_the_nearest_entries() -> None:
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(channels=10, codebooks=3, entries=12, codeword_size=5)
    frames = torch.randn(40, 10)
    codes = quantizer(frames)
    assert codes.shape == (40, 3)
    for row, frame in zip(codes.tolist(), frames):
        for code, projection, codebook in zip(row, quantizer.projections, quantizer.codebooks):
            assert code == slow_code(frame, projection, codebook)
    assert all(len(codes[:, book].unique()) > 6 for book in range(3))
    assert not torch.equal(codes[:, 0], codes[:, 1])


def test_projections_and_codebooks_are_saved_and_never_trained() -> None:
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(channels=160, codebooks=2, entries=50, codeword_size=16)
    assert not list(quantizer.parameters())
    assert set(quantizer.state_dict()) == {"projections", "codebooks"}
    bound = (6 / (160 + 16)) ** 0.5  # Xavier, uniform
    assert 0.98 * bound < float(quantizer.projections.abs().max()) <= bound
    torch.testing.assert_close(quantizer.codebooks.norm(dim=-1), torch.ones(2, 50))


@pytest.mark.parametrize("config", [FBANK, WAVEFORM], ids=["fbank", "waveform"])
@torch.no_grad()
def test_the_loss_is_the_mean_cross_entropy_of_masked_frames(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(config), BestRQ(FEW_CODES, config)
    batch = batch_of(12000, 9000)
    mask = objective.draw(batch)["mask"]
    loss = objective.loss(encoder, batch, mask=mask)

    context, _ = encoder(batch.waveforms, batch.lengths, mask)
    mels = FbankFrontend(FBANK.frontend)(batch.waveforms, batch.lengths)
    total, right = 0.0, 0.0
    for row, frame in mask.nonzero().tolist():
        scores = objective.classify(context[row, frame]).view(3, 12)
        for book in range(3):
            projection = objective.quantizer.projections[book]
            code = slow_code(mels[row, frame], projection, objective.quantizer.codebooks[book])
            total -= float(scores[book].log_softmax(dim=0)[code]) / 3
            right += float(int(scores[book].argmax()) == code) / 3
    assert loss.count == int(mask.sum()) > 0
    assert float(loss.sum) == pytest.approx(total, rel=1e-4)
    assert float(loss.metrics["accuracy"][0]) == pytest.approx(right, rel=1e-5)


def test_masks_are_the_papers_unless_told() -> None:
    """400 ms, begun at 1 % of the frames of 10 ms."""
    mask = BestRQConfig().mask
    assert mask.span == 20
    assert mask.probability == pytest.approx(0.01 * 40)
    assert mask.min_spans == MaskConfig().min_spans


@pytest.mark.parametrize("field", ["codebooks", "entries", "codeword_size"])
def test_a_value_out_of_range_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        BestRQConfig(**{field: 0})


def test_without_refinement_nothing_is_there_for_it() -> None:
    """Checkpoints made before there was refinement load, and the quantizer never moves."""
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), BestRQ(FEW_CODES, FBANK)
    names = {"quantizer.projections", "quantizer.codebooks", "classify.weight", "classify.bias"}
    assert set(objective.state_dict()) == names
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    for update in range(10):
        objective.before_update(encoder, update / 10)
        objective.train()(encoder, batch_of(9000, 6000))
    assert all(torch.equal(objective.state_dict()[name], before[name]) for name in names)


def test_refining_asks_the_device_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the components are estimated, and while codebooks are refined."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # meta knows no autocast
    refined = RefinementConfig(pca_until=0.2, every=0.1)
    config = BestRQConfig(entries=12, refinement=refined)
    model = PretrainModel(Encoder(FBANK), BestRQ(config, FBANK)).to(META)
    batch = toy_batch()
    batch.to(META)
    with NoBlockingCopies():
        for update in range(5):
            model.set_progress(update / 10)
            model(batch).sum.backward()
