from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile


def test_serves_until_it_is_interrupted(recogniser: Path, corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "speechssl.cli.main", "serve", str(recogniser), "--port", "0"]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert server.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stderr.readline())
        assert found is not None
        recording = next((corpus / "audio").glob("test-*.wav"))
        address = f"{found[0]}transcriptions?name=a.wav"
        with urllib.request.urlopen(address, data=recording.read_bytes()) as answer:
            events = [json.loads(line) for line in answer]
        assert events[-1]["event"] == "done"
        assert len(list(tmp_path.iterdir())) == 1
        with urllib.request.urlopen(f"{found[0]}settings") as answer:
            assert json.load(answer)["model"].endswith("/model")
        long = io.BytesIO()
        samples, rate = soundfile.read(recording)
        soundfile.write(long, np.resize(samples, 600 * rate), rate, format="wav")
        unfinished = urllib.request.urlopen(address, data=long.getvalue())
        assert json.loads(unfinished.readline())["event"] == "started"
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_port_that_is_taken(fails, recogniser: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = fails("serve", recogniser, "--port", port)
    assert f"cannot serve at 127.0.0.1, port {port}" in message


def test_open_to_all_needs_names(fails, recogniser: Path) -> None:
    assert "--allow-host" in fails("serve", recogniser, "--host", "0.0.0.0")


def test_missing_model(fails, tmp_path: Path) -> None:
    assert "nothing" in fails("serve", tmp_path / "nothing")


def test_missing_extra(fails, recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("speechssl.serving.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install -e '.[serve]'" in fails("serve", recogniser)
