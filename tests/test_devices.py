from pathlib import Path

import pytest
import torch

from speechssl.devices import choose_precision, find_device
from speechssl.errors import ConfigError

CPU_FLAGS = Path("/proc/cpuinfo")


def test_no_such_device():
    with pytest.raises(ConfigError, match=r"'cuda:99' cannot be used .*; try cpu or auto"):
        find_device("cuda:99")


def test_a_named_precision_is_taken():
    assert choose_precision("fp32", torch.device("cuda")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"


def test_auto_is_bf16_where_the_processor_multiplies_it():
    if not CPU_FLAGS.is_file():
        pytest.skip("only Linux tells what the processor can do")
    flags = CPU_FLAGS.read_text().split()
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_precision("auto", torch.device("cpu")) == ("bf16" if native else "fp32")
