"""What `helm test` runs inside the cluster, against a real server that speaks TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oodguard.load_tests.gateway import Gateway
from tests.helm.charts import Render

ASK = Path(__file__).parents[2] / "helm" / "oodguard" / "files" / "ask.py"


def authority(folder: Path, name: str, *, signs: str) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate for the host name `signs` with its key."""
    home = folder / name
    home.mkdir()
    ca, ca_key, key, request, cert, extensions = (
        home / file for file in ("ca.crt", "ca.key", "tls.key", "tls.csr", "tls.crt", "ext")
    )
    extensions.write_text(f"subjectAltName=DNS:{signs}\n")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    for arguments in (
        (*new, "-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", ca_key, "-out", ca),
        (*new, "-subj", f"/CN={signs}", "-keyout", key, "-out", request),
        ("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
         "-extfile", extensions, "-out", cert),
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    return ca, cert, key


def ask(server: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ASK],
        env={**os.environ, "OODGUARD_URL": server.url, "OODGUARD_AUTH": "none", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_certificate_is_verified_with_the_charts_authority(bundle: Path, tmp_path: Path) -> None:
    ca, cert, key = authority(tmp_path, "own", signs="guard.example.com")
    other, _, _ = authority(tmp_path, "other", signs="guard.example.com")
    mounted, foreign = tmp_path / "mounted", tmp_path / "foreign"
    for folder, file in ((mounted, ca), (foreign, other)):
        folder.mkdir()
        (folder / "ca.crt").write_bytes(file.read_bytes())
    with Gateway(bundle, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        assert server.url.startswith("https:")
        good = {"OODGUARD_TLS": str(mounted), "OODGUARD_SERVER_NAME": "guard.example.com"}
        found = ask(server, **good)
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith("the certificate of guard.example.com is verified")
        for wrong in (
            {"OODGUARD_TLS": str(foreign)},
            {"OODGUARD_TLS": str(tmp_path / "absent")},
            {"OODGUARD_SERVER_NAME": "rel-oodguard.default.svc"},
        ):
            found = ask(server, **{**good, **wrong})
            assert found.returncode != 0
            assert "CERTIFICATE_VERIFY_FAILED" in found.stderr, found.stderr


@pytest.mark.parametrize("clients", [False, True])
def test_the_pod_is_given_what_it_verifies_with(render: Render, clients: bool) -> None:
    values = {"tls": {"secret": "cert", "clientCertificates": clients}}
    pod = render("cpu", values).one("Pod")["spec"]
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert environment["OODGUARD_SERVER_NAME"] == "rel-oodguard.prod.svc"
    assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "tls")
    # The key is for callers who must show a certificate, and for nobody else.
    assert ("items" in secret) is not clients
    named = render("cpu", {**values, "test": {"serverName": "guard.example.com"}}).one("Pod")["spec"]
    assert {"name": "OODGUARD_SERVER_NAME", "value": "guard.example.com"} in named["containers"][0]["env"]
