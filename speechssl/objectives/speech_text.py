"""CLIP for speech: tell which transcript belongs to which recording (Radford et al. 2021).

Source: arXiv 2103.00020, section 2.3 and figure 3: one vector for the recording, one for its
transcript, cosine similarities of all pairs of the batch times a learned scale, cross-entropy in
both directions. Masked spans of frames, as in fine-tuning, are ours: corpora with transcripts are
small.

The transcript is read as bytes of UTF-8, which knows every script without a list of tokens, by a
small transformer of its own. It needs a transcript for every cut, and cuts that are not cropped
(``data.max_seconds``), or the transcript says more than is heard. The negatives are those of the
same forward pass: of ``data.forward_seconds`` of audio on each process.

B recordings, T frames, L bytes of a transcript, D model size, Q size of the space in which
recordings and transcripts are compared, N negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.errors import ManifestError
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FrontendConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    encode,
    frame_counts,
    full_precision,
    mean_metrics,
    transformer_of,
    variety,
)
from speechssl.objectives.contrastive import info_nce
from speechssl.objectives.masking import MaskConfig, span_mask
from speechssl.objectives.utterances import mean_over_time, number_right, other_recordings

LARGEST_SCALE = 100.0
"""Up to which the learned scale of the similarities may grow, as in the paper."""


@dataclass
class SpeechTextMaskConfig(MaskConfig):
    """``MaskConfig`` with few and short spans: much is left to recognise the words by."""

    probability: float = 0.2
    span: int = 5


@dataclass
class SpeechTextConfig:
    """Settings of ``SpeechText``. Sizes are ours: the paper's are for 400 million pairs."""

    mask: SpeechTextMaskConfig = field(default_factory=SpeechTextMaskConfig)

    temperature: float = 0.07
    """What the cosine similarities are divided by when training starts; learned from there on."""

    text_dim: int = 128
    """Width of the transcripts' transformer, in heads of 64."""

    text_layers: int = 2

    projection_size: int = 256
    """Size of the space in which recordings and transcripts are compared (Q)."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "more than 0", self.temperature)
        divides = self.text_dim >= 64 and self.text_dim % 64 == 0
        require(divides, "text_dim", "a multiple of 64", self.text_dim)
        for name in ("text_layers", "projection_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))


class SpeechText(Objective):
    """A recording must single out its transcript, and a transcript its recording."""

    Config = SpeechTextConfig

    def __init__(
        self, config: SpeechTextConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.read = TextEncoder(config.text_dim, config.text_layers)
        self.project_speech = nn.Linear(encoder.dim, config.projection_size)
        self.project_text = nn.Linear(config.text_dim, config.projection_size)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool, and ``others`` [B, B - 1] int64, the recordings of the batch that
        are negatives for each; both on the CPU."""
        counts, width = frame_counts(batch)
        mask = span_mask(counts, self.config.mask, width=width)
        return {"mask": mask, "others": other_recordings(len(counts))}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor, others: Tensor) -> Loss:
        """Mean of the cross-entropies in both directions, summed over recordings.

        A negative with the same transcript is no wrong answer and does not count; recordings with
        at least one that does are the count. Raises ``ManifestError`` where a recording has no
        transcript.
        """
        texts, device = checked_texts(batch), batch.waveforms.device
        answers = torch.cat([torch.arange(len(texts))[:, None], others], dim=1)  # [B, 1 + N]
        same = torch.tensor(
            [
                [texts[row] == texts[other] for other in of]
                for row, of in enumerate(others.tolist())
            ],
            dtype=torch.bool,  # also where there are none
        ).view(others.shape)
        count = int((~same).any(dim=1).sum())

        context = encode(encoder, batch, mask, None)[2]  # [B, T, D]
        context = mean_over_time(context, frame_counts(batch)[0])  # [B, D]
        read = self.read(texts, device).float()  # [B, text_dim]
        with full_precision(context):
            speech = F.normalize(self.project_speech(context), dim=-1)
            text = F.normalize(self.project_text(read), dim=-1)
            scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
            similarities = scale * speech @ text.T  # [B, B]
            answers = to_device(answers, device)
            wrong = to_device(F.pad(same, (1, 0), value=False), device)
            to_text, to_speech = (
                side.gather(1, answers).masked_fill(wrong, -torch.inf)
                for side in (similarities, similarities.T)
            )
            total = (info_nce(to_text) + info_nce(to_speech)) / 2
        right = (number_right(to_text) + number_right(to_speech)) / 2
        guess = float((1 + (~same).sum(dim=1)).log().sum())
        means: dict[str, Tensor | float] = {
            "temperature": 1 / scale,
            **variety("target", text),
            **variety("context", context),
        }
        return Loss(
            total,
            count,
            {
                "accuracy": (right, count),
                "loss_trivial": (guess, count),
                **mean_metrics(means, count),
            },
        )


class TextEncoder(nn.Module):
    """The mean over bytes of what a small transformer makes of a transcript."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, dim)
        self.transformer = transformer_of(
            EncoderConfig(
                FrontendConfig(kind="fbank"),
                dim=dim,
                layers=layers,
                heads=dim // 64,
                ffn_dim=4 * dim,
                norm="pre",
                position_kernel=15,
            )
        )

    def forward(self, texts: list[str], device: torch.device) -> Tensor:
        """B transcripts, none of them empty -> [B, D]."""
        spelled = [torch.tensor(list(text.encode())) for text in texts]
        lengths = torch.tensor([len(letters) for letters in spelled])
        letters = to_device(pad_sequence(spelled, batch_first=True), device)  # [B, L]
        hidden = self.transformer.contextualize(self.embedding(letters), lengths)
        return mean_over_time(hidden, lengths)


def checked_texts(batch: SpeechBatch) -> list[str]:
    """The B transcripts. Raises ``ManifestError`` naming the first recording without one."""
    texts = batch.texts or [""] * len(batch.lengths)
    for row, text in enumerate(texts):
        if not text:
            name = batch.ids[row] if batch.ids else f"number {row} of the batch"
            raise ManifestError(
                f"cut {name}: has no transcript, which objective speech_text needs for every cut; "
                "pretrain on transcribed cuts, or choose another objective."
            )
    return texts
