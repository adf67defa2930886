from __future__ import annotations

import pytest
import torch

from speechssl.models.adapters import add_adapters, merge_adapters
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FrontendConfig

SCALE = 1.5


def small_encoder(position_layers: int = 1) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        frontend=FrontendConfig(kind="fbank"),
        dim=32,
        layers=2,
        heads=2,
        ffn_dim=48,
        position_kernel=8,
        position_groups=2,
        position_layers=position_layers,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return Encoder(config)


def context(encoder: Encoder) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    waveforms = torch.randn(2, 8000, generator=generator)
    return encoder(waveforms, torch.tensor([8000, 5000]))[0]


@pytest.mark.parametrize("position_layers", [1, 2])
def test_nothing_changes_at_first(position_layers: int) -> None:
    encoder = small_encoder(position_layers)
    before = context(encoder)
    add_adapters(encoder, 4, SCALE)
    assert torch.equal(context(encoder), before)


def test_only_the_adapters_learn_and_all_of_them() -> None:
    encoder = small_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    add_adapters(encoder, 4, SCALE)
    learning = {name for name, _ in encoder.named_parameters()}
    assert len(learning) == 2 * 2 * 6  # up and down, two layers, six matrices
    assert sum(encoder.get_parameter(n).numel() for n in learning) < 0.3 * sum(
        value.numel() for value in before.values()
    )
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    target = torch.randn(32)
    for _ in range(2):  # ``down`` has no gradient while ``up`` is zero
        optimizer.zero_grad()
        (context(encoder) @ target).square().sum().backward()
        optimizer.step()
    for name in learning:
        gradient = encoder.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().max() > 0, name
    merge_adapters(encoder)
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert len(changed) == 2 * 6
    assert all(name.startswith("layers.") and name.endswith(".weight") for name in changed)


def test_merged_weights_are_the_sum_and_compute_the_same() -> None:
    encoder, plain = small_encoder(), small_encoder()
    add_adapters(encoder, 4, SCALE)
    torch.manual_seed(2)
    for name, parameter in encoder.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.1)
    for ours, theirs in zip(encoder.layers, plain.layers):
        for path in (
            "attention.query", "attention.key", "attention.value", "attention.out",
            "feed_forward.expand", "feed_forward.contract",
        ):  # fmt: skip
            change = ours.get_submodule(path).parametrizations.weight[0]
            theirs.get_submodule(path).weight.data += SCALE * change.up @ change.down
    adapted = context(encoder)
    assert not torch.allclose(adapted, context(small_encoder()))
    torch.testing.assert_close(adapted, context(plain), rtol=1e-5, atol=1e-5)
    merge_adapters(encoder)
    torch.testing.assert_close(context(encoder), adapted, rtol=1e-5, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[name], value, rtol=1e-5, atol=1e-6)
