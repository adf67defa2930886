"""The teacher of self-distillation: a copy of the student that follows it slowly.

Source: mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780); for speech data2vec (Baevski
et al. 2022, arXiv 2202.03555, section 3.2). After each update the teacher's weights become
``decay * teacher + (1 - decay) * student``: an exponential moving average (EMA).

How fast it follows is stated as a horizon, a share of the run: after it a student's weights have
lost all but 1 / e of their part in the average. A decay per update means another share in a run of
another length, which is why papers tune it with the length: BYOL takes 0.996 for 312,000 updates
and 0.99 for 94,000, in both cases a horizon near a thousandth of the run. An update that takes
training forward by a share ``d`` of the run (1 / updates) has ``decay = exp(-d / horizon)``. So a
short run is a scaled long run, and an update that is announced twice has ``d = 0`` the second time
and changes nothing.

B recordings, T frames, D model size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.padding import padding_mask, zero_padding
from speechssl.objectives.base import RunClock, frame_counts, full_precision, transformer_of


@dataclass
class TeacherConfig:
    """What the teacher averages and how slowly; the defaults are data2vec's for speech, whose
    decay rises from 0.999 to 0.9999 within 30,000 of 400,000 updates."""

    part: Literal["transformer", "encoder"] = "transformer"
    """``transformer``: only its layers are averaged; frontend, projection and position embedding
    are the student's (which the paper found cheaper and slightly better). ``encoder``: all."""

    horizon_start: float = 0.0025
    """How far back the average reaches when training starts, as a share of the run."""

    horizon_end: float = 0.025
    """The same from ``horizon_fraction`` of training on."""

    horizon_fraction: float = 0.075
    """Share of training in which the horizon grows."""

    def __post_init__(self) -> None:
        for name in ("horizon_start", "horizon_end"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        fraction = self.horizon_fraction
        require(0 < fraction <= 1, "horizon_fraction", "above 0 and at most 1", fraction)

    def rate(self, fraction: float) -> float:
        """1 / horizon when ``fraction`` of training is done.

        It falls linearly, so that the decay per update rises linearly, as in the paper.
        """
        start, end = 1 / self.horizon_start, 1 / self.horizon_end
        return start + (end - start) * min(1.0, fraction / self.horizon_fraction)


class Teacher(RunClock, nn.Module):
    """A module whose weights are the moving average of another one's.

    The weights are buffers and not parameters: saved, loaded and moved with the objective, but
    neither trained nor decayed. It is always in evaluation mode. Dropout aside it depends on the
    student's weights alone, which are the same on all processes: so is the teacher.
    """

    def __init__(self, model: nn.Module) -> None:
        """``model`` is built as the student is, or as a part of it; its values do not matter, for
        the first ``follow`` copies those of the student."""
        super().__init__()
        for part in model.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                delattr(part, name)
                part.register_buffer(name, parameter.detach())
        self.model = model
        self.train()

    def train(self, mode: bool = True) -> Self:
        """A teacher does not train, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def follow(
        self, student: nn.Module, fraction: float, rate: float, *, shared: str | None = None
    ) -> float:
        """Moves the weights towards those of the same names in ``student``; returns the decay.

        ``fraction`` of the run is done; ``rate`` is 1 / horizon. What has a name that starts with
        ``shared`` is copied. Neither allocates on the device nor waits for it.
        """
        elapsed = self.elapsed(fraction)
        if elapsed == 0.0:
            return 1.0
        decay = 0.0 if math.isinf(elapsed) else math.exp(-rate * elapsed)
        ours, theirs = dict(self.model.named_buffers()), dict(student.named_parameters())
        common = ours.keys() & theirs.keys()
        copied = {name for name in common if shared is not None and name.startswith(shared)}
        for names, weight in ((common - copied, 1.0 - decay), (copied, 1.0)):
            if names:
                pairs = [(ours[name], theirs[name]) for name in names]
                torch._foreach_lerp_([to for to, _ in pairs], [of for _, of in pairs], weight)
        self.fraction = fraction
        return decay


class EncoderTeacher(Teacher):
    """An averaged encoder, and what its upper layers make of unmasked input."""

    model: Encoder

    def __init__(self, encoder: EncoderConfig, config: TeacherConfig, layers: int) -> None:
        """``layers`` is how many layers, counted from the top, ``layer_outputs`` looks at."""
        self.shares_frontend = config.part == "transformer"
        body = transformer_of(encoder) if self.shares_frontend else Encoder(encoder)
        super().__init__(body)
        self.config = config
        self.decay = 0.0
        """The decay of the last update."""
        self._outputs: list[Tensor] = []
        for layer in list(body.layers)[len(body.layers) - layers :]:
            layer.feed_forward.register_forward_hook(self._keep)  # type: ignore[union-attr]

    def follow_encoder(self, encoder: Encoder, fraction: float) -> None:
        """``follow`` at the rate of the configuration."""
        shared = "position." if self.shares_frontend else None
        rate = self.config.rate(fraction)
        if self.elapsed(fraction) > 0.0:
            self.decay = self.follow(encoder, fraction, rate, shared=shared)

    @torch.no_grad()
    def layer_outputs(self, batch: SpeechBatch, projected: Tensor) -> list[Tensor]:
        """What each of the upper layers adds for unmasked input: float32 [B, T, D] each, the
        lowest first, each channel normalised over its recording, zeros behind ends.

        That is the output of its feed-forward before the residual sum, as in data2vec (footnote in
        section 3.3). ``projected`` [B, T, D] are the student's frames at the transformer's width,
        without dropout; they are looked at where the teacher has no frontend of its own.
        """
        counts, _ = frame_counts(batch)
        inputs = projected.detach()
        if not self.shares_frontend:
            frames = self.model.extract(batch.waveforms, batch.lengths)
            inputs = self.model.project(self.model.normalize(frames))
        self._outputs = []
        self.model.contextualize(inputs, counts)
        outputs, self._outputs = self._outputs, []
        if self.model.squeeze is not None:
            outputs = [self.model.squeeze.repeat(o, inputs.shape[1]) for o in outputs]
        with full_precision(inputs):
            return [normalize_over_time(output.float(), counts) for output in outputs]

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._outputs.append(output)


def normalize_over_time(values: Tensor, counts: Tensor) -> Tensor:
    """Each channel of each recording to mean 0 and variance 1 over its frames: instance norm
    (Ulyanov et al. 2016, arXiv 1607.08022) that looks at real frames only.

    values [B, T, D], counts [B] frames on the CPU -> [B, T, D], zeros behind ends.
    """
    padding = padding_mask(counts, values.shape[1], values.device)
    totals = to_device(counts.clamp(min=1).to(values.dtype), values.device)[:, None, None]
    mean = zero_padding(values, padding).sum(dim=1, keepdim=True) / totals
    centred = zero_padding(values - mean, padding)
    variance = centred.square().sum(dim=1, keepdim=True) / totals
    return centred * torch.rsqrt(variance + 1e-5)


def upper_layers(encoder: EncoderConfig, wanted: int | None) -> int:
    """How many layers give targets: ``wanted``, or two thirds of them (8 of 12) where it is None.

    Raises ``ConfigError`` where the encoder has no layers or fewer than wanted.
    """
    require(encoder.layers >= 1, "layers", "1 or more for this objective", encoder.layers)
    if wanted is None:
        return max(1, round(encoder.layers * 2 / 3))
    rule = f"from 1 to the encoder's layers ({encoder.layers})"
    require(1 <= wanted <= encoder.layers, "top_layers", rule, wanted)
    return wanted
