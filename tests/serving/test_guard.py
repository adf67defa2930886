from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import ConfigError
from speechssl.serving.app import make_app
from speechssl.serving.guard import LOOPBACK, allowed_hosts


def test_names_of_others_are_refused(client: TestClient) -> None:
    for host, status in (
        ("localhost:8000", 200),
        ("127.0.0.1:1234", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example:8000", 400),
        ("192.168.1.5:8000", 400),
        ("", 400),
    ):
        assert client.get("/settings", headers={"host": host}).status_code == status, host


def test_names_can_be_added(transcriber: Transcriber) -> None:
    app = make_app(transcriber, "m", hosts=allowed_hosts("0.0.0.0", ["192.168.1.5", "fe80::1"]))
    with TestClient(app) as client:
        for host, status in (("192.168.1.5:80", 200), ("[fe80::1]:80", 200), ("evil.example", 400)):
            assert client.get("/settings", headers={"host": host}).status_code == status, host


def test_allowed_hosts() -> None:
    assert allowed_hosts("127.0.0.1") == [*LOOPBACK, "127.0.0.1"]
    assert allowed_hosts("::1") == [*LOOPBACK, "[::1]"]
    assert allowed_hosts("10.0.0.7", ["lab-pc.local"]) == [*LOOPBACK, "lab-pc.local", "10.0.0.7"]
    for everywhere in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="--allow-host"):
            allowed_hosts(everywhere)


@pytest.mark.parametrize("name", ["*", "*.example", "lab:8000", "http://lab", "", "a b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is no host"):
        allowed_hosts("0.0.0.0", [name])
