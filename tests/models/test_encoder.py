import dataclasses

import pytest
import torch
import torchaudio
import transformers
from torch import Tensor, nn

from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.attention import PLAIN_FRAMES
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FrontendConfig
from speechssl.models.position import PositionEmbedding
from tests.models.reference import copy_from_torchaudio, copy_from_transformers, randomize

SMALL = EncoderConfig(
    FrontendConfig(channels=24),
    dim=48,
    layers=3,
    heads=4,
    ffn_dim=96,
    position_kernel=16,
    position_groups=4,
)
LAYOUTS = {
    "group_post": SMALL,
    "layer_pre": dataclasses.replace(
        SMALL, frontend=FrontendConfig(channels=24, norm="layer", bias=True), norm="pre"
    ),
    "fbank_pre": dataclasses.replace(SMALL, frontend=FrontendConfig(kind="fbank"), norm="pre"),
    "fbank_post_odd": dataclasses.replace(
        SMALL, frontend=FrontendConfig(kind="fbank"), position_kernel=15
    ),
    "layer_stacked_post": dataclasses.replace(
        SMALL,
        frontend=FrontendConfig(channels=24, norm="layer"),
        position_kernel=5,
        position_layers=3,
    ),
    "group_relative_post": dataclasses.replace(SMALL, relative_buckets=24, relative_distance=40),
    "fbank_stacked_relative_causal_pre": dataclasses.replace(
        SMALL,
        frontend=FrontendConfig(kind="fbank"),
        norm="pre",
        causal=True,
        position_kernel=4,
        position_layers=2,
        relative_buckets=24,
        relative_distance=40,
    ),
    "layer_causal_pre": dataclasses.replace(
        SMALL,
        frontend=FrontendConfig(channels=24, norm="layer", bias=True),
        norm="pre",
        causal=True,
    ),
    "conformer_squeezed_pre": dataclasses.replace(
        SMALL,
        frontend=FrontendConfig(kind="fbank"),
        norm="pre",
        squeeze=2,
        convolution_kernel=5,
    ),
    "conformer_causal_pre": dataclasses.replace(
        SMALL,
        frontend=FrontendConfig(channels=24, norm="layer", bias=True),
        norm="pre",
        causal=True,
        convolution_kernel=5,
    ),
    "fbank_causal_post_odd": dataclasses.replace(
        SMALL, frontend=FrontendConfig(kind="fbank"), position_kernel=15, causal=True
    ),
}


def _encoder(layout: str, **changes: object) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(dataclasses.replace(LAYOUTS[layout], **changes)).eval()
    randomize(encoder)
    return encoder


def _batch() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([12345, 16000, 400, 7777])
    torch.manual_seed(1)
    waveforms = torch.randn(4, 16000) + 0.1
    waveforms[torch.arange(16000) >= lengths[:, None]] = 0
    return waveforms, lengths


def _transformers(layout: str) -> nn.Module:
    config = LAYOUTS[layout]
    large = config.norm == "pre"
    return transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim,
            conv_dim=[config.frontend.channels] * 7,
            num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups,
            feat_extract_norm="layer" if large else "group",
            conv_bias=large,
            do_stable_layer_norm=large,
        )
    ).eval()


def _torchaudio(layout: str) -> nn.Module:
    config = LAYOUTS[layout]
    large = config.norm == "pre"
    widths, kernels, strides = [config.frontend.channels] * 7, [10, 3, 3, 3, 3, 2, 2], [5] + [2] * 6
    return torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm" if large else "group_norm",
        extractor_conv_layer_config=list(zip(widths, kernels, strides)),
        extractor_conv_bias=large,
        encoder_embed_dim=config.dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=config.position_kernel,
        encoder_pos_conv_groups=config.position_groups,
        encoder_num_layers=config.layers,
        encoder_num_heads=config.heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=config.ffn_dim,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=large,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()


def _states(encoder: Encoder, waveforms: Tensor) -> list[Tensor]:
    lengths = torch.full((len(waveforms),), waveforms.size(1))
    inputs = encoder.project(encoder.normalize(encoder.extract(waveforms, lengths)))
    context, states = encoder.contextualize(inputs, num_frames(lengths), layers=True)
    assert torch.equal(context, states[-1])
    return states


@pytest.mark.parametrize("layout", ["group_post", "layer_pre"])
@torch.no_grad()
def test_equals_transformers_at_every_layer(layout: str) -> None:
    model, encoder = _transformers(layout), _encoder(layout)
    randomize(model)
    copy_from_transformers(model, encoder)
    waveforms = torch.randn(2, 11111)
    expected = model(waveforms, output_hidden_states=True).hidden_states
    for ours, theirs in zip(_states(encoder, waveforms), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["group_post", "layer_pre"])
@torch.no_grad()
def test_equals_torchaudio_at_every_layer(layout: str) -> None:
    model, encoder = _torchaudio(layout), _encoder(layout)
    randomize(model)
    copy_from_torchaudio(model, encoder)
    waveforms = torch.randn(2, 11111)
    ours = _states(encoder, waveforms)
    layers, _ = model.extract_features(waveforms)
    for index in range(len(layers) - (encoder.config.norm == "pre")):  # the last lacks its norm
        torch.testing.assert_close(ours[index + 1], layers[index], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[-1], model(waveforms)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padded_batch_equals_files_one_by_one(layout: str) -> None:
    encoder = _encoder(layout)
    waveforms, lengths = _batch()
    context, counts = encoder(waveforms, lengths)
    assert counts.tolist() == [num_frames(int(length)) for length in lengths]
    upstream = torch.randn_like(context)
    upstream[torch.arange(context.size(1)) >= counts[:, None]] = 0
    parameters = [p for name, p in encoder.named_parameters() if name != "mask_embedding"]
    batched = torch.autograd.grad((context * upstream).sum(), parameters)

    loss = torch.zeros(())
    for index, (waveform, length, count) in enumerate(zip(waveforms, lengths, counts)):
        alone, _ = encoder(waveform[None, :length], length[None])
        torch.testing.assert_close(context[index, :count], alone[0], rtol=1e-5, atol=1e-5)
        loss = loss + (alone[0] * upstream[index, :count]).sum()
    singles = torch.autograd.grad(loss, parameters)
    scale = max(float(single.abs().max()) for single in singles)
    for ours, single in zip(batched, singles):
        torch.testing.assert_close(ours, single, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_hidden_states_are_those_of_the_whole_pass(layout: str) -> None:
    encoder = _encoder(layout)
    waveforms = torch.randn(2, 4000)
    lengths = torch.tensor([4000, 4000])
    states = _states(encoder, waveforms)
    for layer, state in enumerate(states):
        assert torch.equal(encoder.hidden_states(waveforms, lengths, [layer])[0], state)
    for found, layer in zip(encoder.hidden_states(waveforms, lengths, [1, 0]), [1, 0], strict=True):
        assert torch.equal(found, states[layer])
    torch.testing.assert_close(encoder(waveforms, lengths)[0], states[-1])


@pytest.mark.parametrize("layout", ["group_post", "fbank_pre", "conformer_squeezed_pre"])
def test_an_early_context_is_that_of_an_encoder_with_fewer_layers(layout: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(LAYOUTS[layout]).eval()
    shorter = Encoder(dataclasses.replace(LAYOUTS[layout], layers=2)).eval()
    left_out = shorter.load_state_dict(encoder.state_dict(), strict=False).unexpected_keys
    assert left_out
    assert all(name.startswith("layers.2.") for name in left_out)
    inputs, frames = torch.randn(2, 31, SMALL.dim), torch.tensor([31, 20])
    context, early = encoder.contextualize_early(inputs, frames, layer=2)
    expected, shorter_context = (e.contextualize(inputs, frames) for e in (encoder, shorter))
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(context[row, :count], expected[row, :count])
        torch.testing.assert_close(early[row, :count], shorter_context[row, :count])
    context, last = encoder.contextualize_early(inputs, frames, LAYOUTS[layout].layers)
    assert torch.equal(context, last)


@pytest.mark.parametrize("squeeze", [1, 2])
@torch.no_grad()
def test_hidden_states_stop_after_the_highest_layer_wanted(squeeze: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(dataclasses.replace(SMALL, layers=4, squeeze=squeeze)).eval()
    computed: list[int] = []
    for number, layer in enumerate(encoder.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: computed.append(number))
    encoder.hidden_states(torch.randn(1, 4000), torch.tensor([4000]), [2, 0])
    assert computed == [1, 2]
    encoder.hidden_states(torch.randn(1, 4000), torch.tensor([4000]), [0])
    assert computed == [1, 2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trains_in_bf16(layout: str) -> None:
    encoder = _encoder(layout, attention_dropout=0.1, activation_dropout=0.1, input_dropout=0.1)
    waveforms, lengths = _batch()
    exact, _ = encoder(waveforms, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        rough, counts = encoder(waveforms, lengths)
    assert rough.dtype == torch.bfloat16
    valid = torch.arange(rough.size(1)) < counts[:, None]
    assert (rough.float() - exact)[valid].abs().mean() < 0.03 * exact[valid].abs().mean()
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        context, _ = encoder(waveforms, lengths, mask=valid)
    context[valid].float().square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("changes", [{}, {"layers": 0}, {"layer_drop": 0.999}])
def test_context_at_positions_is_that_of_all(layout: str, changes: dict[str, float]) -> None:
    encoder = _encoder(layout, dropout=0.0, attention_dropout=0.0, **changes)
    encoder.train(bool(changes))
    waveforms, lengths = _batch()
    inputs = encoder.project(encoder.normalize(encoder.extract(waveforms, lengths)))
    frames = num_frames(lengths)
    positions = torch.tensor([0, 7, 12, 50, 60, 148])
    everywhere = encoder.contextualize(inputs, frames)
    chosen = encoder.contextualize(inputs, frames, positions=positions)
    torch.testing.assert_close(chosen, everywhere.flatten(0, 1)[positions])


@pytest.mark.parametrize("frames", [40, PLAIN_FRAMES + 8])
@pytest.mark.parametrize(
    "layout",
    [
        "layer_causal_pre",
        "fbank_causal_post_odd",
        "conformer_causal_pre",
        "layer_pre",
        "fbank_stacked_relative_causal_pre",
    ],
)
def test_only_a_causal_context_ignores_later_frames(layout: str, frames: int) -> None:
    encoder = _encoder(layout)
    inputs = torch.randn(2, frames, 48, requires_grad=True)
    counts = torch.tensor([frames, frames - 9])
    context = encoder.contextualize(inputs, counts)[:, :20]
    (gradient,) = torch.autograd.grad(context.square().sum(), inputs)
    assert gradient[:, :20].abs().sum(-1).all()
    assert gradient[:, 20:].any() == (not encoder.config.causal)
    later = torch.cat([inputs[:, :20], torch.randn(2, frames - 20, 48)], dim=1)
    changed = encoder.contextualize(later, counts)[:, :20]
    assert torch.allclose(context, changed, rtol=1e-5, atol=1e-6) == encoder.config.causal


@torch.no_grad()
def test_a_causal_encoder_needs_no_later_samples() -> None:
    """Where the frontend normalises nothing over the recording."""
    encoder = _encoder("layer_causal_pre")
    waveforms = torch.randn(1, 8000)
    whole, _ = encoder(waveforms, torch.tensor([8000]))
    start, counts = encoder(waveforms[:, :4000], torch.tensor([4000]))
    torch.testing.assert_close(start, whole[:, : int(counts[0])], rtol=1e-5, atol=1e-5)


def test_same_seed_same_training_pass() -> None:
    encoder = _encoder("group_post", attention_dropout=0.1, layer_drop=0.5).train()
    waveforms, lengths = _batch()
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(encoder(waveforms, lengths)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_mask_hides_the_frame() -> None:
    encoder = _encoder("fbank_pre")
    inputs = torch.randn(2, 5, 48)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 1:3] = True
    masked = encoder.apply_mask(inputs, mask)
    assert torch.equal(masked[0, 1:3], encoder.mask_embedding.expand(2, 48))
    assert torch.equal(masked[~mask], inputs[~mask])
    waveforms, lengths = torch.randn(1, 4000), torch.tensor([4000])
    everything = torch.ones(1, num_frames(4000), dtype=torch.bool)
    first, _ = encoder(waveforms, lengths, everything)
    second, _ = encoder(torch.randn(1, 4000), lengths, everything)
    torch.testing.assert_close(first, second)


def test_the_relative_bias_gets_a_gradient_though_all_layers_are_dropped() -> None:
    encoder = _encoder("group_relative_post", layer_drop=0.999).train()
    encoder(torch.randn(1, 1000), torch.tensor([1000]))[0].sum().backward()
    assert encoder.relative is not None
    assert encoder.relative.embedding.grad is not None
    assert not encoder.relative.embedding.grad.any()


def test_dropped_layers_get_zero_gradients_and_all_get_dropped_alike() -> None:
    encoder = _encoder("fbank_pre", layer_drop=0.4, dropout=0.0, attention_dropout=0.0).train()
    waveforms, lengths = torch.randn(1, 1000), torch.tensor([1000])
    torch.manual_seed(0)
    dropped = torch.zeros(3)
    for _ in range(150):
        encoder.zero_grad()
        encoder(waveforms, lengths)[0].sum().backward()
        gradients = [layer.feed_forward.expand.weight.grad for layer in encoder.layers]
        assert all(gradient is not None for gradient in gradients)
        dropped += torch.tensor([float(not gradient.any()) for gradient in gradients])
    assert ((dropped / 150 - 0.4).abs() < 0.12).all()


def test_frontend_gradient_is_scaled() -> None:
    waveforms, lengths = _batch()
    gradients = []
    for factor in (1.0, 0.1):
        encoder = _encoder("group_post", frontend_gradient=factor)
        encoder(waveforms, lengths)[0].square().sum().backward()
        gradients.append([encoder.frontend.layers[3].weight.grad, encoder.projection.weight.grad])
    torch.testing.assert_close(gradients[1][0], 0.1 * gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


@pytest.mark.parametrize("layout", ["group_post", "fbank_pre"])
def test_a_frontend_without_gradient_stays_as_it_is(layout: str) -> None:
    """Weight decay, which an optimizer applies to what has a gradient, if only of zeros, too."""
    encoder = _encoder(layout, frontend_gradient=0.0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, weight_decay=0.1)
    encoder(*_batch())[0].square().sum().backward()
    optimizer.step()
    for name, value in encoder.state_dict().items():
        if name.startswith("frontend."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(encoder.projection.weight, before["projection.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 7}, r"heads must be a divisor of dim \(48\), but is 7"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, but is 1.0"),
        ({"dim": 0}, "dim must be positive, but is 0"),
        ({"layers": -1}, "layers must be from 0 to 1000"),
        ({"squeeze": 0}, "squeeze must be at least 1"),
        ({"squeeze": 2, "causal": True}, "squeeze must be 1 in a causal encoder"),
        ({"convolution_kernel": 4}, "convolution_kernel must be odd, or 0 for none"),
        ({"convolution_kernel": -3}, "convolution_kernel must be odd, or 0 for none"),
        ({"position_groups": 5}, "position_groups must be a divisor"),
        ({"frontend_gradient": 2.0}, "frontend_gradient must be from 0 to 1"),
        ({"position_layers": 0}, "position_layers must be positive"),
        ({"relative_buckets": 3}, "relative_buckets must be 0, or an even number from 4 on"),
        ({"relative_buckets": 320, "relative_distance": 80}, "relative_distance must be above"),
    ],
)
def test_bad_values_name_the_field(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("frames", [1, 5, 40, 200])
@pytest.mark.parametrize("kernel", [15, 16, 128])
def test_position_embedding_equals_a_weight_normed_convolution(kernel: int, frames: int) -> None:
    torch.manual_seed(0)
    position = PositionEmbedding(48, kernel, 4).double()
    randomize(position)
    plain = nn.Conv1d(48, 48, kernel, padding=kernel // 2, groups=4).double()
    plain = nn.utils.parametrizations.weight_norm(plain, dim=2)
    with torch.no_grad():
        plain.parametrizations.weight.original0.copy_(position.scale)
        plain.parametrizations.weight.original1.copy_(position.direction)
        plain.bias.copy_(position.bias)
    inputs = torch.randn(2, frames, 48, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.gelu(plain(inputs.transpose(1, 2))[..., :frames]).transpose(1, 2)
    actual = position(inputs)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    weights = plain.parametrizations.weight
    theirs = [inputs, weights.original0, weights.original1, plain.bias]
    ours = [inputs, position.scale, position.direction, position.bias]
    torch.testing.assert_close(
        torch.autograd.grad(actual, ours, upstream), torch.autograd.grad(expected, theirs, upstream)
    )


@pytest.mark.parametrize("causal", [False, True])
def test_position_embedding_in_16_bits_is_near_to_that_in_32(causal: bool) -> None:
    """On a CPU it is computed in another way there."""
    torch.manual_seed(0)
    position = PositionEmbedding(64, 32, 4, causal=causal)
    inputs = torch.randn(2, 50, 64)
    expected = position(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = position(inputs)
    assert actual.dtype == torch.bfloat16
    error = (actual.float() - expected).square().mean().sqrt()
    assert error < 0.01 * expected.square().mean().sqrt()


@pytest.mark.parametrize("frames", [1, 5, 40])
@pytest.mark.parametrize("kernel", [15, 16])
def test_causal_position_embedding_is_the_convolution_that_ends_at_its_frame(
    kernel: int, frames: int
) -> None:
    torch.manual_seed(0)
    position = PositionEmbedding(48, kernel, 4, causal=True).double()
    randomize(position)
    inputs = torch.randn(2, frames, 48, dtype=torch.float64)
    norm = position.direction.norm(dim=(0, 1), keepdim=True)
    taps = (position.direction * position.scale / norm).unbind(-1)  # the last at the frame itself
    padded = torch.cat([torch.zeros(2, kernel - 1, 48, dtype=torch.float64), inputs], dim=1)
    expected = torch.zeros(2, frames, 48, dtype=torch.float64)
    for offset, tap in enumerate(taps):  # [48, 12], four groups of 12 channels
        seen = padded[:, offset : offset + frames].unflatten(-1, (4, 12))
        expected += torch.einsum("btgc,goc->btgo", seen, tap.unflatten(0, (4, 12))).flatten(2)
    expected = nn.functional.gelu(expected + position.bias)
    torch.testing.assert_close(position(inputs), expected)
