"""The encoder: frontend, projection, convolutional position embedding, transformer.

Source: wav2vec 2.0 (Baevski et al., 2020), section 2; HuBERT (Hsu et al., 2021) uses the same
network. It does not know which objective trains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import require
from speechssl.frames import num_frames
from speechssl.models.attention import RelativeBias, SelfAttention, take_frames
from speechssl.models.convolution import ConvolutionModule
from speechssl.models.dropout import Dropout, dropout
from speechssl.models.frontend import FrontendConfig, build_frontend
from speechssl.models.gradients import ScaleGradient, Skip
from speechssl.models.padding import padding_mask, zero_padding
from speechssl.models.position import PositionEmbedding, PositionStack
from speechssl.models.squeeze import Squeeze
from speechssl.models.strided import gelu_linear, joined_linear
from speechssl.models.visible import gather_visible


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and regularisation of an encoder. Presets are in ``speechssl.models.presets``."""

    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    dim: int = 768
    layers: int = 12
    heads: int = 12
    ffn_dim: int = 3072
    norm: Literal["post", "pre"] = "post"
    """Layer norm after each residual sum (wav2vec 2.0 base) or before each block (large)."""

    position_kernel: int = 128
    """Frames that each convolution of the position embedding sees (128 are 2.6 s)."""
    position_groups: int = 16
    position_layers: int = 1
    """Convolutions of the position embedding: one with weight normalisation (wav2vec 2.0), or
    several with layer norm (data2vec: 5 of 19 frames)."""

    relative_buckets: int = 0
    """Distances between frames that attention tells apart (WavLM: 320); 0: none."""
    relative_distance: int = 800
    """Frames beyond which all distances are alike to attention."""

    squeeze: int = 1
    """Frames that the transformer sees as one: with 2 it works on 40 ms and costs half, while
    everything outside of it still has a context every 20 ms (SEW, see ``Squeeze``)."""

    convolution_kernel: int = 0
    """Frames of the depthwise convolution in front of each layer's attention, which makes a
    Conformer of the transformer (see ``ConvolutionModule``); 0 for none."""

    causal: bool = False
    """Whether the context of a frame depends on that frame and earlier ones alone, as predicting
    the future needs: attention looks back only, and so does the position embedding. The frontend
    stays as it is: what it normalises over the whole recording (filter banks, group norm,
    ``normalize_waveform``) still tells of later frames, if only their mean and variance."""

    dropout: float = 0.1
    """On the outputs of attention and feed-forward, and on the transformer's input."""
    attention_dropout: float = 0.1
    """On the attention weights."""
    activation_dropout: float = 0.0
    """Inside the feed-forward, after its activation."""
    input_dropout: float = 0.0
    """On the projected frames."""
    layer_drop: float = 0.0
    """Probability that training skips a layer."""
    frontend_gradient: float = 1.0
    """Factor on the gradient that reaches the frontend (0.1 in wav2vec 2.0 base); 0 leaves its
    weights as they are, without weight decay too."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require(0 <= self.layers <= MAX_LAYERS, "layers", f"from 0 to {MAX_LAYERS}", self.layers)
        depth = self.position_layers
        require(depth <= MAX_LAYERS, "position_layers", f"at most {MAX_LAYERS}", depth)
        require(self.squeeze >= 1, "squeeze", "at least 1", self.squeeze)
        if self.causal:
            require(self.squeeze == 1, "squeeze", "1 in a causal encoder", self.squeeze)
        kernel, rule = self.convolution_kernel, "odd, or 0 for none"
        sound = kernel == 0 or (kernel > 0 and kernel % 2 == 1)
        require(sound, "convolution_kernel", rule, kernel)
        rule = f"a divisor of dim ({self.dim})"
        require(self.dim % self.heads == 0, "heads", rule, self.heads)
        require(self.dim % self.position_groups == 0, "position_groups", rule, self.position_groups)
        buckets = self.relative_buckets
        sound = buckets == 0 or (buckets >= 4 and buckets % 2 == 0)
        require(sound, "relative_buckets", "0, or an even number from 4 on", buckets)
        rule, furthest = f"above relative_buckets / 4 ({buckets // 4})", self.relative_distance
        require(furthest > buckets // 4, "relative_distance", rule, furthest)
        for name in _PROBABILITIES:
            value = getattr(self, name)
            require(0.0 <= value < 1.0, name, "at least 0 and below 1", value)
        gradient = self.frontend_gradient
        require(0.0 <= gradient <= 1.0, "frontend_gradient", "from 0 to 1", gradient)


MAX_LAYERS = 1000
"""More layers than anybody trains: a slip of the pen would take minutes to be built."""

_SIZES = ("dim", "heads", "ffn_dim", "position_kernel", "position_groups", "position_layers")

_PROBABILITIES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "input_dropout",
    "layer_drop",
)


class Encoder(nn.Module):
    """Waveforms to context vectors, in steps that objectives may take one by one."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = build_frontend(config.frontend)
        self.feature_norm = nn.LayerNorm(self.frontend.channels)
        self.projection = nn.Linear(self.frontend.channels, config.dim)
        self.input_dropout = Dropout(config.input_dropout)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        self.squeeze = Squeeze(config.dim, config.squeeze) if config.squeeze > 1 else None
        self.position = _position(config)
        self.relative: RelativeBias | None = None
        if config.relative_buckets > 0:
            self.relative = RelativeBias(
                config.relative_buckets, config.relative_distance, config.heads
            )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """The frontend's frames. [B, S] float32, [B] samples -> [B, T, C], zeros behind ends.

        Raises ``AudioError`` when S is below one frame.
        """
        factor = self.config.frontend_gradient
        with torch.set_grad_enabled(torch.is_grad_enabled() and factor > 0):
            frames = self.frontend(waveforms, lengths)
        if frames.requires_grad and factor != 1.0:
            frames = ScaleGradient.apply(frames, factor)  # type: ignore[no-untyped-call]
        return frames  # type: ignore[no-any-return]

    def normalize(self, frames: Tensor) -> Tensor:
        """Layer norm of the frames; wav2vec 2.0 quantizes its output. [B, T, C] -> [B, T, C]."""
        return self.feature_norm(frames)  # type: ignore[no-any-return]

    def project(self, normed: Tensor) -> Tensor:
        """To the transformer's width, with dropout. [B, T, C] -> [B, T, D]."""
        return self.input_dropout(self.projection(normed))  # type: ignore[no-any-return]

    def apply_mask(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Puts the mask embedding at masked frames. [B, T, D], [B, T] bool -> [B, T, D]."""
        return torch.where(mask[:, :, None], self.mask_embedding.to(inputs.dtype), inputs)

    @overload
    def contextualize(
        self, inputs: Tensor, num_frames: Tensor, *, positions: Tensor | None = None
    ) -> Tensor: ...

    @overload
    def contextualize(
        self, inputs: Tensor, num_frames: Tensor, *, layers: Literal[True]
    ) -> tuple[Tensor, list[Tensor]]: ...

    def contextualize(
        self,
        inputs: Tensor,
        num_frames: Tensor,
        *,
        layers: bool = False,
        positions: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Position embedding and transformer.

        inputs [B, T, D], num_frames [B] -> context [B, T, D]; with ``layers`` also the
        hidden states, L + 1 of [B, T, D]: the first layer's input, then each layer's output, the
        last being the context. What stands behind a recording's end is undefined.

        With ``positions`` [M] int64, frames of the flattened [B * T], the context is computed
        for them alone: [M, D]. The last layer then does its feed-forward for M frames only.
        """
        states = []
        for state in self._states(inputs, num_frames, positions):
            context = state
            if layers:
                states.append(state)
        return (context, states) if layers else context

    def contextualize_early(
        self, inputs: Tensor, num_frames: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """``contextualize``, and the context that the encoder would give if it ended with ``layer``
        (0 to L): both [B, T, D]."""
        hidden, frames = self._squeezed(inputs, num_frames)
        states = list(self._transform(hidden, frames))
        early = states[layer]
        if self.config.norm == "pre" and layer < len(self.layers):  # the last one is normed
            early = self.norm(early)
        length = inputs.size(1)
        return self._unsqueezed(states[-1], length), self._unsqueezed(early, length)

    def contextualize_visible(self, inputs: Tensor, num_frames: Tensor, visible: Tensor) -> Tensor:
        """``contextualize`` where the transformer is spared the frames that are not visible.

        inputs [B, T, D] as ``apply_mask`` leaves them, num_frames [B], visible [B, T] bool on the
        CPU -> the context of the visible frames, recording by recording: [N, D]. The others are
        left out once the position embedding, which has seen the mask in their places, is added.
        Not with ``squeeze``, which joins visible frames with others.
        """
        assert self.squeeze is None
        *_, context = self._states(inputs, num_frames, visible=visible)
        return context

    def forward(
        self, waveforms: Tensor, lengths: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """waveforms [B, S] float32 at 16 kHz, lengths [B] samples, mask [B, T] bool (True where
        the mask embedding replaces the frame) -> context [B, T, D] and num_frames [B].

        Raises ``AudioError`` when S is below one frame.
        """
        inputs = self.project(self.normalize(self.extract(waveforms, lengths)))  # [B, T, D]
        if mask is not None:
            inputs = self.apply_mask(inputs, mask)
        frames = num_frames(lengths)
        return self.contextualize(inputs, frames), frames

    def hidden_states(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[int]
    ) -> list[Tensor]:
        """Outputs of the layers of these numbers (0: the first layer's input; see
        ``contextualize``), in their order; no layer above the highest of them is computed.

        waveforms [B, S], lengths [B] samples -> [B, T, D] each.
        """
        assert all(0 <= layer <= self.config.layers for layer in layers), f"not all of {layers}"
        inputs = self.project(self.normalize(self.extract(waveforms, lengths)))
        computed = islice(self._states(inputs, num_frames(lengths)), max(layers) + 1)
        states = {layer: state for layer, state in enumerate(computed) if layer in layers}
        return [states[layer] for layer in layers]

    def _states(
        self,
        inputs: Tensor,
        frames: Tensor,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Iterable[Tensor]:
        """Yields the input of the first layer, then the output of each layer, [B, T, D] each;
        the last one [M, D] with ``positions`` [M] (see ``contextualize``); with ``visible`` as
        ``contextualize_visible`` says."""
        if self.squeeze is None:
            yield from self._transform(inputs, frames, positions, visible)
            return
        length = inputs.size(1)
        for number, state in enumerate(self._transform(*self._squeezed(inputs, frames))):
            if number < len(self.layers):
                yield self.squeeze.repeat(state, length)
            else:
                yield take_frames(self._unsqueezed(state, length), positions)

    def _squeezed(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """inputs [B, T, D] and frames [B] as the transformer sees them."""
        if self.squeeze is None:
            return inputs, frames
        inputs = zero_padding(inputs, padding_mask(frames, inputs.size(1), inputs.device))
        return self.squeeze(inputs), self.squeeze.count(frames)

    def _unsqueezed(self, hidden: Tensor, length: int) -> Tensor:
        """What the transformer gives, for each of the T = ``length`` frames. -> [B, T, D]."""
        return hidden if self.squeeze is None else self.squeeze.undo(hidden, length)

    def _transform(
        self,
        inputs: Tensor,
        frames: Tensor,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Iterable[Tensor]:
        """``_states`` of the frames that the transformer sees, each ``squeeze`` of the others."""
        padding = padding_mask(frames, inputs.size(1), inputs.device)
        inputs = zero_padding(inputs, padding)
        hidden = inputs + self.position(inputs, padding)
        if self.config.norm == "post":
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        if visible is not None:
            hidden, padding, positions = gather_visible(hidden, visible)
        bias = None if self.relative is None else self.relative(hidden.size(1))  # [H, T, T]
        for number, layer in enumerate(self.layers, start=1):
            yield hidden
            wanted = positions if number == len(self.layers) else None
            hidden = self._run(layer, hidden, padding, wanted, bias)
        if not self.layers:
            hidden = take_frames(hidden, positions)
        yield self.norm(hidden) if self.config.norm == "pre" else hidden

    def _run(
        self,
        layer: nn.Module,
        hidden: Tensor,
        padding: Tensor | None,
        positions: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """``layer``, or nothing if layer drop says so. [B, T, D] -> [B, T, D] or [M, D]."""
        if self.training and self.config.layer_drop > 0:
            drop = float(torch.rand((), device="cpu")) < self.config.layer_drop
            if drop and torch.is_grad_enabled():
                unused = list(layer.parameters())
                if self.relative is not None:  # no layer may be left that uses it
                    unused += self.relative.parameters()
                hidden = Skip.apply(hidden, *unused)  # type: ignore[no-untyped-call]
            if drop:
                return take_frames(hidden, positions)
        return layer(hidden, padding, positions, bias)  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual connection. [B, T, D] -> same."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = SelfAttention(
            config.dim,
            config.heads,
            config.attention_dropout,
            config.causal,
            gated=config.relative_buckets > 0,
        )
        self.convolution = None
        if config.convolution_kernel:
            kernel = config.convolution_kernel
            self.convolution = ConvolutionModule(config.dim, kernel, config.causal)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        _init_linears(self)

    def forward(
        self,
        inputs: Tensor,
        padding: Tensor | None,
        positions: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """inputs [B, T, D], padding [B, T] bool or None -> [B, T, D]; with ``positions`` [M],
        frames of the flattened [B * T] whose outputs are wanted, [M, D]. ``bias`` [H, T, T] is
        the encoder's ``RelativeBias``."""
        if self.convolution is not None:
            inputs = inputs + self.dropout(self.convolution(inputs, padding))
        residual = take_frames(inputs, positions)
        if self.pre_norm:
            attended = self.attention(self.attention_norm(inputs), padding, positions, bias)
            hidden = residual + self.dropout(attended)
            return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))  # type: ignore[no-any-return]
        attended = self.attention(inputs, padding, positions, bias)
        hidden = self.attention_norm(residual + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear maps around GELU. [..., D] -> [..., D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.dim, config.ffn_dim)
        self.contract = nn.Linear(config.ffn_dim, config.dim)
        self.activation_dropout = config.activation_dropout

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = joined_linear(inputs, [self.expand.weight], [self.expand.bias])  # [..., F]
        if self.training and self.activation_dropout > 0:
            hidden = dropout(F.gelu(hidden), self.activation_dropout, training=True)
            return self.contract(hidden)  # type: ignore[no-any-return]
        return gelu_linear(hidden, self.contract.weight, self.contract.bias)


def _position(config: EncoderConfig) -> PositionEmbedding | PositionStack:
    """The position embedding that ``config.position_layers`` asks for."""
    sizes = (config.dim, config.position_kernel, config.position_groups)
    if config.position_layers == 1:
        return PositionEmbedding(*sizes, dropout=config.dropout, causal=config.causal)
    return PositionStack(*sizes, config.position_layers, config.causal)


def _init_linears(module: nn.Module) -> None:
    """Normal(0, 0.02) weights and zero biases, as BERT and wav2vec 2.0 start their transformers."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
