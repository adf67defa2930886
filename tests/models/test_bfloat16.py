import copy

import pytest
import torch

from speechssl.models.bfloat16 import keep_products_in_bfloat16
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.presets import encoder_config


@torch.inference_mode()
@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_outputs_are_those_of_autocast_alone(preset: str) -> None:
    torch.manual_seed(0)
    model = CTCModel(Encoder(encoder_config(preset, {"layers": 2})), 30).eval()
    kept = copy.deepcopy(model)
    keep_products_in_bfloat16(kept)
    stored = {weight.dtype for weight in kept.parameters()}
    assert stored == {torch.float32, torch.bfloat16}
    batch = torch.randn(2, 16000), torch.tensor([16000, 12000])
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = model(*batch)[0], kept(*batch)[0]
    assert torch.equal(actual, expected)
