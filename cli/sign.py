"""`oodguard sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect
from oodguard.cli.terminal import Terminal


def sign(
    bundle: Annotated[Path, Parameter(help="Bundle folder, written by export or recalibrate.")],
    *,
    key: Annotated[Path, Parameter(help="Private key of Ed25519, a PEM file.")],
) -> None:
    """Sign a bundle for servers that take signed ones alone.

    A server that trusts the key (serve --trust) takes no other bundle. The command verifies the bundle's files
    first. The signature covers the manifest, which has thresholds, classes and the hash of every file. Sign again
    after recalibrate. Make keys with OpenSSL:

    openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out trust.pem

    Example: oodguard sign bundles/photos --key key.pem
    """
    expect(bundle, Artefact.BUNDLE)
    from oodguard.core.manifest import MANIFEST_FILE, load_manifest
    from oodguard.core.signature import sign as write_signature
    from oodguard.core.signature import signature_of

    manifest = load_manifest(bundle)
    write_signature(bundle / MANIFEST_FILE, key)
    Terminal(soft_wrap=True, highlight=False).print(
        f"{signature_of(bundle / MANIFEST_FILE)}: {manifest.name} version {manifest.version} is signed", markup=False
    )
