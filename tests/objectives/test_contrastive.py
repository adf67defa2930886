"""The contrastive objective against transformers, torch's Gumbel softmax, and slow obvious ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FrontendConfig
from speechssl.objectives.base import Loss
from speechssl.objectives.contrastive import (
    Contrastive,
    ContrastiveConfig,
    GumbelQuantizer,
    singled_out,
)
from speechssl.objectives.masking import MaskConfig
from tests.models.reference import copy_from_transformers, randomize
from tests.objectives.gradients import assert_gradients_are, weights_become_gradients

GROUP_POST = EncoderConfig(
    FrontendConfig(channels=24),
    dim=48,
    layers=2,
    heads=4,
    ffn_dim=96,
    position_kernel=16,
    position_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
)
LAYER_PRE = replace(
    GROUP_POST, frontend=FrontendConfig(channels=24, norm="layer", bias=True), norm="pre"
)
FEW_CODES = ContrastiveConfig(
    MaskConfig(span=5),
    distractors=7,
    entries=4,
    codeword_size=16,
    projection_size=12,
    quantizer_dropout=0.0,
)
MANY_CODES = replace(FEW_CODES, distractors=3, entries=900, penalty_weight=0.0)
both_layouts = pytest.mark.parametrize("layout", [GROUP_POST, LAYER_PRE], ids=["post", "pre"])


def transformers_model(
    layout: EncoderConfig, config: ContrastiveConfig
) -> transformers.Wav2Vec2ForPreTraining:
    large = layout.norm == "pre"
    torch.manual_seed(1)
    model = transformers.Wav2Vec2ForPreTraining(
        transformers.Wav2Vec2Config(
            hidden_size=layout.dim,
            num_hidden_layers=layout.layers,
            num_attention_heads=layout.heads,
            intermediate_size=layout.ffn_dim,
            conv_dim=[layout.frontend.channels] * 7,
            num_conv_pos_embeddings=layout.position_kernel,
            num_conv_pos_embedding_groups=layout.position_groups,
            feat_extract_norm="layer" if large else "group",
            conv_bias=large,
            do_stable_layer_norm=large,
            num_codevector_groups=config.groups,
            num_codevectors_per_group=config.entries,
            codevector_dim=config.codeword_size,
            proj_codevector_dim=config.projection_size,
            contrastive_logits_temperature=config.similarity_temperature,
            diversity_loss_weight=config.diversity_weight,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            feat_quantizer_dropout=0.0,
            layerdrop=0.0,
        )
    )
    randomize(model)
    return model


def copy_weights(
    model: transformers.Wav2Vec2ForPreTraining, encoder: Encoder, objective: Contrastive
) -> None:
    copy_from_transformers(model.wav2vec2, encoder)
    objective.project_context.load_state_dict(model.project_hid.state_dict())
    objective.project_target.load_state_dict(model.project_q.state_dict())
    objective.quantizer.logits.load_state_dict(model.quantizer.weight_proj.state_dict())
    codebooks = model.quantizer.codevectors.detach().view_as(objective.quantizer.codebooks)
    objective.quantizer.codebooks.data.copy_(codebooks)


def batch_of(*samples: int) -> SpeechBatch:
    torch.manual_seed(2)
    return collate([torch.randn(count) for count in samples])


def flat_indices(mask: Tensor, distractors: Tensor) -> Tensor:
    """mask [B, T], our distractors [M, N] -> transformers' [B, T, N], which count b * T + t."""
    width = mask.shape[1]
    theirs = torch.zeros(*mask.shape, distractors.shape[1], dtype=torch.long)
    for index, (row, frame) in enumerate(mask.nonzero().tolist()):
        theirs[row, frame] = row * width + mask[row].nonzero()[:, 0][distractors[index]]
    return theirs


@both_layouts
def test_equals_transformers_in_evaluation(layout: EncoderConfig) -> None:
    """With few codes, so that distractors with the true target's codes occur; with padding where
    transformers handles it (not with group norm)."""
    model = transformers_model(layout, FEW_CODES).eval()
    encoder, objective = Encoder(layout), Contrastive(FEW_CODES, layout)
    copy_weights(model, encoder.eval(), objective.eval())
    batch = batch_of(16000, 12000, 14000) if layout == LAYER_PRE else batch_of(16000, 16000)
    draws = objective.draw(batch)
    ours = objective.loss(encoder, batch, **draws)
    samples = torch.arange(batch.waveforms.shape[1])
    theirs = model(
        batch.waveforms,
        attention_mask=(samples < batch.lengths[:, None]).long(),
        mask_time_indices=draws["mask"],
        sampled_negative_indices=flat_indices(**draws),
    )
    total, count = ours.metrics["loss_contrastive"]
    torch.testing.assert_close(total, theirs.contrastive_loss.detach(), rtol=1e-4, atol=1e-3)
    assert int(count) == int(draws["mask"].sum())
    used, count = ours.metrics["codebook_perplexity"]
    torch.testing.assert_close(used / count, theirs.codevector_perplexity, rtol=1e-4, atol=1e-4)


@both_layouts
def test_equals_transformers_in_training_gradients_too(layout: EncoderConfig) -> None:
    """With the same Gumbel noise. Many codes, so that no distractor has the true target's codes:
    transformers compares codewords, which rounding makes unequal in training."""
    model = transformers_model(layout, MANY_CODES).train()
    encoder, objective = Encoder(layout), Contrastive(MANY_CODES, layout)
    copy_weights(model, encoder.train(), objective.train())
    batch = batch_of(16000, 16000)
    draws = objective.draw(batch)
    mask = draws["mask"]
    shape = (*mask.shape, MANY_CODES.groups, MANY_CODES.entries)
    torch.manual_seed(3)
    draws["noise"] = -torch.empty(shape).exponential_().log()[mask]
    objective.set_progress(0.4)
    ours = objective.loss(encoder, batch, **draws)

    model.quantizer.register_forward_pre_hook(lambda *_: torch.manual_seed(3) and None)
    model.set_gumbel_temperature(objective.quantizer.temperature)
    theirs = model(
        batch.waveforms,
        mask_time_indices=mask,
        sampled_negative_indices=flat_indices(mask, draws["distractors"]),
    )
    total, _ = ours.metrics["loss_diversity"]
    torch.testing.assert_close(total, theirs.diversity_loss.detach(), rtol=1e-4, atol=1e-4)
    total, _ = ours.metrics["loss_contrastive"]
    torch.testing.assert_close(total, theirs.contrastive_loss.detach(), rtol=1e-4, atol=1e-3)

    torch.testing.assert_close(ours.sum.detach(), theirs.loss.detach(), rtol=1e-4, atol=1e-3)

    ours.sum.backward()
    theirs.loss.backward()
    weights_become_gradients(model)
    gradients = Encoder(layout), Contrastive(MANY_CODES, layout)
    copy_weights(model, *gradients)
    assert_gradients_are(encoder, gradients[0])
    assert_gradients_are(objective, gradients[1])


def slow_logits(objective: Contrastive, values: dict[str, Tensor]) -> Tensor:
    """Equation 3 for one frame and one answer at a time."""
    mask, codes = values["mask"], values["codes"]
    first = [int(mask[:row].sum()) for row in range(len(mask))]
    rows = []
    for index, (row, _) in enumerate(mask.nonzero().tolist()):
        answers = [index] + [first[row] + place for place in values["distractors"][index].tolist()]
        logits = []
        for number, answer in enumerate(answers):
            similarity = F.cosine_similarity(
                values["predictions"][index], values["targets"][answer], dim=0
            )
            same = number > 0 and torch.equal(codes[index], codes[answer])
            logits.append(-torch.inf if same else float(similarity) / 0.1)
        rows.append(logits)
    return torch.tensor(rows)


def test_equation_3_frame_by_frame() -> None:
    torch.manual_seed(0)
    objective = Contrastive(FEW_CODES, GROUP_POST)
    draws = objective.draw(batch_of(9000, 16000, 12000))
    masked = int(draws["mask"].sum())
    values = {
        "predictions": torch.randn(masked, 12),
        "targets": torch.randn(masked, 12),
        "codes": torch.randint(0, 3, (masked, 2)),
        "mask": draws["mask"],
        "distractors": draws["distractors"],
    }
    fast, slow = objective.logits(**values), slow_logits(objective, values)
    assert slow.isinf().any()
    torch.testing.assert_close(fast, slow)


def test_distractors_are_the_other_masked_frames_all_equally_likely() -> None:
    torch.manual_seed(0)
    objective = Contrastive(ContrastiveConfig(distractors=4000), GROUP_POST)
    draws = objective.draw(batch_of(16000, 7000))
    mask, distractors = draws["mask"], draws["distractors"]
    assert distractors.shape == (int(mask.sum()), 4000)
    first = 0
    for count in mask.sum(dim=1).tolist():
        for place in range(count):
            seen = torch.bincount(distractors[first + place], minlength=count)
            assert len(seen) == count
            assert seen[place] == 0
            others = seen[torch.arange(count) != place].double()
            expected = 4000 / (count - 1)
            assert ((others - expected).abs() < 6 * expected**0.5).all()
        first += count


def test_a_recording_with_one_masked_frame_contributes_nothing() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(GROUP_POST), Contrastive(FEW_CODES, GROUP_POST)
    batch = batch_of(16000, 720)  # two frames: one masked
    mask = objective.draw(batch)["mask"]
    assert mask[0].any()
    assert not mask[1].any()
    loss = objective(encoder, batch)
    assert float(loss.count) > 0
    assert loss.sum.isfinite()


def test_collapsed_codes_score_no_accuracy() -> None:
    ties = torch.tensor([[1.0, -torch.inf, -torch.inf], [1.0, 1.0, 0.0], [1.0, 0.9, -torch.inf]])
    assert singled_out(ties).tolist() == [False, False, True]


def test_quantizer_is_torchs_gumbel_softmax_gradients_too() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(channels=6, groups=2, entries=5, codeword_size=8)
    quantizer.temperature = 0.7
    frames = torch.randn(30, 6)
    torch.manual_seed(4)
    noise = -torch.empty(30, 2, 5).exponential_().log()
    codewords, codes, probabilities = quantizer(frames, noise)
    torch.manual_seed(4)
    logits = quantizer.logits(frames).view(30, 2, 5)
    choice = F.gumbel_softmax(logits, tau=0.7, hard=True)
    expected = torch.cat([choice[:, g] @ quantizer.codebooks[g] for g in range(2)], dim=1)
    torch.testing.assert_close(codewords, expected)
    assert torch.equal(codes, choice.argmax(dim=-1))
    torch.testing.assert_close(probabilities, logits.softmax(dim=-1))
    weights = torch.randn_like(codewords)
    parameters = list(quantizer.parameters())
    ours = torch.autograd.grad((codewords * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_temperature_falls_geometrically_and_then_stays() -> None:
    objective = Contrastive(ContrastiveConfig(), GROUP_POST)
    temperatures = []
    for fraction in (0.0, 0.35, 0.7, 1.0):
        objective.set_progress(fraction)
        temperatures.append(objective.quantizer.temperature)
    assert temperatures == pytest.approx([2.0, 1.0, 0.5, 0.5])


def test_diversity_is_0_for_even_use_and_near_1_for_a_single_code() -> None:
    objective = Contrastive(ContrastiveConfig(entries=50), GROUP_POST)
    even = torch.eye(50)[:, None].expand(50, 2, 50)
    assert float(objective.diversity(even)) == pytest.approx(0.0, abs=1e-4)
    assert float(objective.diversity(even[:1].expand(50, 2, 50))) == pytest.approx(0.98, abs=1e-4)


def total_of(config: ContrastiveConfig) -> Loss:
    torch.manual_seed(0)
    encoder, objective = Encoder(GROUP_POST), Contrastive(config, GROUP_POST)
    batch = batch_of(16000, 12000)
    torch.manual_seed(1)
    return objective(encoder, batch)


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    loss = total_of(ContrastiveConfig(diversity_weight=0.3, penalty_weight=7.0))
    parts = {name: total for name, (total, _) in loss.metrics.items()}
    expected = parts["loss_contrastive"] + 0.3 * parts["loss_diversity"]
    torch.testing.assert_close(loss.sum.detach(), expected + 7.0 * parts["feature_penalty"])
    assert float(parts["feature_penalty"]) > 0


def test_penalty_is_the_mean_square_of_real_frames() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(GROUP_POST), Contrastive(FEW_CODES, GROUP_POST)
    batch = batch_of(16000, 9000)
    frames = encoder.extract(batch.waveforms, batch.lengths)
    counts = num_frames(batch.lengths).tolist()
    real = torch.cat([row[:count] for row, count in zip(frames, counts)])
    total, count = objective(encoder, batch).metrics["feature_penalty"]
    torch.testing.assert_close(total / count, real.square().mean().detach())


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"distractors": 0}, "distractors"),
        ({"entries": 1}, "entries"),
        ({"codeword_size": 7}, "codeword_size"),
        ({"temperature_end": 0.0}, "temperature_end"),
        ({"temperature_fraction": 0.0}, "temperature_fraction"),
        ({"quantizer_dropout": 1.0}, "quantizer_dropout"),
        ({"diversity_weight": -0.1}, "diversity_weight"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        ContrastiveConfig(**values)  # type: ignore[arg-type]
