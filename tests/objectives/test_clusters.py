"""The cluster objective against torchaudio's HuBERT, and its checks of the targets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import ConfigError, TargetsError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FrontendConfig
from speechssl.objectives.base import Loss
from speechssl.objectives.clusters import Clusters, ClustersConfig
from speechssl.objectives.masking import MaskConfig
from tests.models.reference import copy_from_torchaudio, randomize
from tests.objectives.gradients import assert_gradients_are, weights_become_gradients

CLUSTERS = 9
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


class GivenMask(nn.Module):
    """torchaudio's mask generator, with the mask given instead of drawn."""

    def __init__(self, mask: Tensor, mask_embedding: Tensor) -> None:
        super().__init__()
        self.mask = mask
        self.mask_embedding = nn.Parameter(mask_embedding.detach().clone())

    def forward(self, inputs: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(self.mask[:, :, None], self.mask_embedding, inputs), self.mask


def torchaudio_model(layout: EncoderConfig, mask: Tensor) -> nn.Module:
    large = layout.norm == "pre"
    widths, kernels, strides = [layout.frontend.channels] * 7, [10, 3, 3, 3, 3, 2, 2], [5] + [2] * 6
    torch.manual_seed(1)
    model = torchaudio.models.hubert_pretrain_model(
        extractor_mode="layer_norm" if large else "group_norm",
        extractor_conv_layer_config=list(zip(widths, kernels, strides)),
        extractor_conv_bias=large,
        encoder_embed_dim=layout.dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=layout.position_kernel,
        encoder_pos_conv_groups=layout.position_groups,
        encoder_num_layers=layout.layers,
        encoder_num_heads=layout.heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=layout.ffn_dim,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=large,
        encoder_layer_drop=0.0,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=CLUSTERS,
        final_dim=32,
        feature_grad_mult=None,
    )
    randomize(model)
    model.mask_generator = GivenMask(mask, model.mask_generator.mask_embedding)
    return model


def copy_weights(model: nn.Module, encoder: Encoder, objective: Clusters) -> None:
    copy_from_torchaudio(model.wav2vec2, encoder)
    encoder.mask_embedding.data.copy_(model.mask_generator.mask_embedding)
    objective.project_context.load_state_dict(model.logit_generator.final_proj.state_dict())
    objective.cluster_embeddings.data.copy_(model.logit_generator.label_embeddings)


def batch_of(*samples: int) -> SpeechBatch:
    torch.manual_seed(2)
    return collate(
        [torch.randn(count) for count in samples],
        ids=[f"cut-{index}" for index in range(len(samples))],
        targets=[torch.randint(0, CLUSTERS, (num_frames(count),)) for count in samples],
    )


def settings(**changes: float) -> ClustersConfig:
    return ClustersConfig(projection_size=32, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "samples"),
    [(GROUP_POST, (16000, 16000)), (LAYER_PRE, (16000, 12000, 14000))],
    ids=["post", "pre-padded"],
)
def test_equals_torchaudio_gradients_too(layout: EncoderConfig, samples: tuple[int, ...]) -> None:
    """Masked frames weighted 1, the others 0.25. With padding where torchaudio handles it (not
    with group norm)."""
    config = settings(masked_weight=1.0, unmasked_weight=0.25, penalty_weight=0.0)
    encoder, objective = Encoder(layout), Clusters(config, layout, CLUSTERS)
    batch = batch_of(*samples)
    mask = objective.draw(batch)["mask"]
    model = torchaudio_model(layout, mask)
    copy_weights(model, encoder, objective)
    ours = objective.loss(encoder, batch, mask=mask)

    lengths = None if len(set(samples)) == 1 else batch.lengths
    masked, unmasked, penalty = model(batch.waveforms, batch.targets, lengths)
    theirs = [
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
        for logits in (masked, unmasked)
    ]
    assert len(masked) == int(mask.sum())
    assert float(ours.count) == len(masked) + 0.25 * len(unmasked)
    total, count = ours.metrics["loss_masked"]
    torch.testing.assert_close(total, theirs[0].detach(), rtol=1e-4, atol=1e-3)
    assert int(count) == len(masked)
    expected = theirs[0] + 0.25 * theirs[1]
    torch.testing.assert_close(ours.sum.detach(), expected.detach(), rtol=1e-4, atol=1e-3)
    found = (masked[:, 0] >= masked[:, 1:].amax(dim=1)).sum()
    assert int(ours.metrics["accuracy"][0]) == int(found)
    if lengths is None:  # torchaudio averages over padding too
        total, count = ours.metrics["feature_penalty"]
        torch.testing.assert_close(total / count, penalty.detach(), rtol=1e-4, atol=1e-6)

    ours.sum.backward()
    expected.backward()
    weights_become_gradients(model)
    gradients = Encoder(layout), Clusters(config, layout, CLUSTERS)
    copy_weights(model, *gradients)
    assert_gradients_are(encoder, gradients[0])
    assert_gradients_are(objective, gradients[1])


def loss_of(batch: SpeechBatch, **changes: float) -> Loss:
    torch.manual_seed(0)
    encoder = Encoder(GROUP_POST)
    objective = Clusters(settings(**changes), GROUP_POST, CLUSTERS)
    torch.manual_seed(1)
    return objective(encoder, batch)


def test_the_count_is_the_masked_frames_and_the_loss_the_sum_of_its_parts() -> None:
    loss = loss_of(batch_of(16000, 12000), penalty_weight=7.0)
    parts = {name: total for name, (total, _) in loss.metrics.items()}
    assert float(loss.count) == float(loss.metrics["accuracy"][1]) > 0
    expected = parts["loss_masked"] + 7.0 * parts["feature_penalty"]
    torch.testing.assert_close(loss.sum.detach(), expected)


def test_perplexities_say_how_many_clusters_are_in_use() -> None:
    batch = batch_of(16000, 12000)
    assert batch.targets is not None
    batch.targets = batch.targets.clamp(max=0)
    assert loss_of(batch).metrics["target_perplexity"][0] == pytest.approx(
        float(loss_of(batch).count), rel=1e-4
    )


def test_masks_are_denser_than_wav2vec2s_unless_told() -> None:
    assert ClustersConfig().mask.probability == 0.8
    assert ClustersConfig().mask.span == MaskConfig().span


def drop_a_frame(targets: Tensor) -> None:
    targets[1, num_frames(12000) - 1] = -1


def add_a_frame(targets: Tensor) -> None:
    targets[1, num_frames(12000)] = 0


def name_a_foreign_cluster(targets: Tensor) -> None:
    targets[1, 3] = CLUSTERS


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_a_frame, "cut cut-1: has targets for 36 frames, its audio gives 37"),
        (add_a_frame, "cut cut-1: has targets for 38 frames, its audio gives 37"),
        (name_a_foreign_cluster, "cut cut-1: has a target outside 0 to 8"),
    ],
)
def test_targets_that_do_not_fit_are_refused(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    batch = batch_of(16000, 12000)
    spoil(batch.targets)
    with pytest.raises(TargetsError, match=message):
        loss_of(batch)


def test_missing_or_misshapen_targets_are_refused() -> None:
    batch = batch_of(16000, 12000)
    assert batch.targets is not None
    batch.targets = batch.targets[:, :-2]
    with pytest.raises(TargetsError, match=r"targets of shape \(2, 47\), not \(2, 49\)"):
        loss_of(batch)
    batch.targets = None
    with pytest.raises(TargetsError, match="has no cluster targets"):
        loss_of(batch)


@pytest.mark.parametrize("clusters", [None, 1])
def test_without_clusters_it_cannot_be_built(clusters: int | None) -> None:
    with pytest.raises(ConfigError, match="speechssl label"):
        Clusters(ClustersConfig(), GROUP_POST, clusters)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"masked_weight": -1.0}, "masked_weight"),
        ({"masked_weight": 0.0}, r"masked_weight \+ unmasked_weight"),
        ({"similarity_temperature": 0.0}, "similarity_temperature"),
        ({"projection_size": 0}, "projection_size"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        ClustersConfig(**values)  # type: ignore[arg-type]
