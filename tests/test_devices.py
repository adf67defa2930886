from pathlib import Path

import pytest
import torch

from speechssl.devices import choose_precision, find_device, multiplies_int8
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


def test_int8_is_refused_where_it_would_be_slow_or_wrong():
    rule = r"int8 is for processors with AVX-512 VNNI, not for the device cuda; choose auto, or"
    with pytest.raises(ConfigError, match=rule):
        choose_precision("int8", torch.device("cuda"))
    if CPU_FLAGS.is_file():
        native = "avx512_vnni" in CPU_FLAGS.read_text().split()
        assert multiplies_int8(torch.device("cpu")) == native
    if multiplies_int8(torch.device("cpu")):
        assert choose_precision("int8", torch.device("cpu")) == "int8"
    else:
        with pytest.raises(ConfigError, match="which this one lacks; choose auto"):
            choose_precision("int8", torch.device("cpu"))
