from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oodguard.server.settings import ENV_PREFIX, ServeSettings
from oodguard.server.tables import filled, table

BUNDLE = Path("bundle")


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_PREFIX + "MAX_QUEUE", "77")
    monkeypatch.setenv(ENV_PREFIX + "TOP_K", "3")
    settings = ServeSettings(bundle=BUNDLE, top_k=2)
    assert (settings.max_queue, settings.top_k) == (77, 2)


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="prot"):
        ServeSettings(bundle=BUNDLE, prot=1)  # type: ignore[call-arg]
    monkeypatch.setenv(ENV_PREFIX + "PROT", "1")
    with pytest.raises(ValidationError, match="OODGUARD_SERVE_PROT"):
        ServeSettings(bundle=BUNDLE)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"tls_cert": Path(__file__)}, "go together"),
        ({"port": 9000, "admin_port": 9000}, "the same"),
        ({"port": 9000, "grpc_port": 9000}, "--grpc-port is the port of something else"),
        ({"host": "unix:/run/og.sock", "grpc_port": 9000}, "a Unix socket, which has no gRPC port"),
        ({"max_files": 200, "max_queue": 100}, "max_files"),
        ({"max_queue_bytes": 1000}, "max-body-bytes"),
        ({"request_timeout": 100.0}, "max-request-timeout"),
        ({"stall_after": 50.0}, "--stall-after is larger than --dead-after"),
        ({"body_timeout": 25.0}, "raise it to 35"),
        ({"cors_origins": "*"}, "is not an origin"),
        ({"cors_origins": "https://a.example/"}, "is not an origin"),
        ({"cors_origins": "https://a.example, https://b.example"}, "is not an origin"),
        ({"cors_origins": "null"}, "is not an origin"),
        ({"root_path": "guard"}, "root_path"),
        ({"root_path": "/guard/"}, "root_path"),
        ({"host": "0.0.0.0"}, "reachable"),
        ({"auth": "keys"}, "--key-file"),
        ({"auth": "none", "key_hashes": "a:" + "0" * 64}, "contradict"),
        ({"engine": "openvino", "device": "cuda"}, "CPU"),
        ({"key_file": Path("absent")}, "not a file"),
        ({"engine": "triton"}, "needs --triton-url"),
        ({"engine": "triton", "triton_url": "http://a:8001"}, "HOST:PORT"),
        ({"engine": "triton", "triton_url": "a:8001,"}, "HOST:PORT"),
        ({"engine": "triton", "triton_url": "a:8001", "threads": 2}, "--threads is decided where"),
        ({"engine": "triton", "triton_url": "a:8001", "triton_ca": Path(__file__)}, "need --triton-tls"),
        ({"triton_url": "a:8001"}, "--triton-url is for --engine triton"),
        ({"engine": "triton", "triton_url": "localhost:8001"}, "localhost:8001 is one of this server's own ports"),
        ({"engine": "triton", "triton_url": "a:1,127.0.0.1:8000", "host": "0.0.0.0", "auth": "none"}, "own ports"),
        ({"port": 70_000}, "less than or equal"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        ServeSettings(bundle=BUNDLE, **given)


def test_the_bundle_may_be_left_out_only_where_triton_tells_the_manifest() -> None:
    with pytest.raises(ValidationError, match="name the bundle to serve"):
        ServeSettings()
    with pytest.raises(ValidationError, match="needs --triton-model"):
        ServeSettings(engine="triton", triton_url="a:8001")
    settings = ServeSettings(engine="triton", triton_url="a:8001,[::1]:8001,a:8001", triton_model="photos")
    assert settings.triton_addresses == ("a:8001", "[::1]:8001")


def test_triton_may_have_the_same_port_on_another_machine_or_address() -> None:
    for url in ("triton.example.com:8001", "[::1]:8001", "localhost:8002", "10.0.0.7:8000"):
        assert ServeSettings(bundle=BUNDLE, engine="triton", triton_url=url).triton_addresses == (url,)
    moved = ServeSettings(bundle=BUNDLE, engine="triton", triton_url="localhost:8001", port=8080, admin_port=8081)
    assert moved.triton_url == "localhost:8001"


def test_anyone_may_call_a_public_address_only_by_explicit_choice() -> None:
    assert ServeSettings(bundle=BUNDLE, host="0.0.0.0", auth="none").auth == "none"
    for local in ("::1", "[::1]", "localhost", "unix:/run/og.sock"):
        assert ServeSettings(bundle=BUNDLE, host=local).auth is None
    with pytest.raises(ValidationError, match="reachable"):
        ServeSettings(bundle=BUNDLE, host="[::]")


def test_origins_are_listed_once() -> None:
    settings = ServeSettings(bundle=BUNDLE, cors_origins="https://a.example,http://[::1]:3000,https://a.example")
    assert settings.origins == ("https://a.example", "http://[::1]:3000")
    assert ServeSettings(bundle=BUNDLE).origins == ()


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ("docs/SETTINGS.md", "settings"),
        ("docs/METRICS.md", "metrics"),
        ("docs/API.md", "problems"),
        ("docs/SCORES.md", "scores"),
        ("docs/BUNDLE.md", "manifest"),
    ],
)
def test_tables_of_the_documents_are_what_the_code_says(document: str, name: str) -> None:
    text = (Path(__file__).parents[2] / document).read_text(encoding="utf-8")
    assert table(name) in text, "run: make docs"
    assert filled(text) == text


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAMPLE_DIR", "KEY_FILE", "ACCEPT", "PORT"):
        monkeypatch.setenv(ENV_PREFIX + name, "")
    settings = ServeSettings(bundle=BUNDLE)
    assert (settings.sample_dir, settings.key_file, settings.accept, settings.port) == (None, None, None, 8000)
