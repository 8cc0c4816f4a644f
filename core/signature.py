"""Signatures of manifests: Ed25519 over the bytes of `manifest.json`, in a file beside it.

A manifest has the hash of every other file of its bundle, and the thresholds inside it: who signs it signs all of it.
Keys are PEM files and the signature is 64 raw bytes, as OpenSSL makes and checks them:

    openssl pkeyutl -verify -pubin -inkey trust.pem -rawin -in manifest.json -sigfile manifest.json.sig
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oodguard.core.errors import EnvironmentProblem, FormatError, InputError
from oodguard.core.files import read_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_SUFFIX = ".sig"
SIGNATURE_BYTES = 64
MAX_KEY_BYTES = 2**16
PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)
NEEDED = "signatures need: pip install 'oodguard[sign]'"


@dataclass(frozen=True)
class Trust:
    """The public keys whose signatures count.

    ```python
    manifest = load_manifest(Path("bundles/photos"), trust=Trust.read(Path("trust.pem")))
    ```
    """

    source: Path
    keys: tuple[Ed25519PublicKey, ...]

    @classmethod
    def read(cls, path: Path) -> Trust:
        """The keys of a PEM file, one or more: with two of them a key is replaced without an outage.

        Raises `InputError` for a file without one, or with a key of another kind, `EnvironmentProblem` without the
        extra.
        """
        try:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
            from cryptography.hazmat.primitives.serialization import load_pem_public_key
        except ModuleNotFoundError:
            raise EnvironmentProblem(NEEDED) from None
        found = []
        for part in PEM.finditer(_pem(path)):
            if part[1] == "PRIVATE KEY":
                raise InputError(f"{path} holds a private key; give the public one: openssl pkey -pubout")
            try:
                key = load_pem_public_key(part[0].encode())
            except (ValueError, UnsupportedAlgorithm):
                raise InputError(f"{path} holds something that is not a public key") from None
            if not isinstance(key, Ed25519PublicKey):
                raise InputError(f"{path} holds a public key that is not of Ed25519")
            found.append(key)
        if not found:
            raise InputError(f"{path} holds no public key; it takes PEM, as openssl pkey -pubout writes it")
        return cls(path, tuple(found))

    def require(self, file: Path, content: bytes) -> None:
        """Raise `FormatError` unless the signature beside `file` is one of `content` by one of the keys."""
        from cryptography.exceptions import InvalidSignature

        path = signature_of(file)
        try:
            with path.open("rb") as stream:
                signature = stream.read(SIGNATURE_BYTES + 1)
        except FileNotFoundError:
            raise FormatError(f"{file} is not signed, and only bundles that {self.source} trusts are taken") from None
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror or error})") from None
        for key in self.keys:
            try:
                key.verify(signature, content)
            except InvalidSignature:
                continue
            return
        raise FormatError(f"the signature of {file} is not one that {self.source} trusts, or the file was changed")


def signature_of(file: Path) -> Path:
    """Where the signature of a file is."""
    return file.with_name(file.name + SIGNATURE_SUFFIX)


def sign(file: Path, key: Path) -> None:
    """Sign a file with the private key in a PEM file, as `openssl genpkey -algorithm ed25519` makes it.

    Raises `InputError` for a key that cannot be used, `EnvironmentProblem` without the extra or where the signature
    cannot be written.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ModuleNotFoundError:
        raise EnvironmentProblem(NEEDED) from None
    try:
        private = load_pem_private_key(_pem(key).encode(), password=None)
    except TypeError:
        raise InputError(f"{key} is encrypted; decrypt it with openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{key} is not a private key in PEM, as openssl genpkey -algorithm ed25519 makes it") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{key} is not a key of Ed25519; openssl genpkey -algorithm ed25519 makes one")
    path = signature_of(file)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        unfinished.write_bytes(private.sign(file.read_bytes()))
        unfinished.replace(path)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror or error})") from None


def _pem(path: Path) -> str:
    try:
        return read_text(path, most=MAX_KEY_BYTES)
    except (OSError, UnicodeDecodeError, FormatError) as error:
        raise InputError(f"{path} cannot be read as a key in PEM ({error})") from None
