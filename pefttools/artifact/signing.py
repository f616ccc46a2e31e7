"""Signatures: who made an artifact. Digests show that nothing was changed, but not who made it.

A signature is an Ed25519 signature of the bytes of the manifest, which has the digests of all other files. It is stored
next to the manifest; keys are PEM files. OpenSSL can check it, too:

    openssl pkeyutl -verify -pubin -inkey acme.pem.pub -rawin -in pefttools.json -sigfile pefttools.json.sig
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pefttools.artifact.manifest import SIGNATURE
from pefttools.artifact.reading import hold
from pefttools.errors import ArtifactError, ConfigError
from pefttools.files import write_bytes_atomic, write_new


class UnsignedError(ArtifactError):
    """An artifact without a signature by a trusted key."""


class Signers:
    """Those whose artifacts are trusted.

    Args:
        files: their public keys.

    Raises:
        ConfigError: one can't be read; `cryptography` is not installed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._keys = [_key(file, private=False) for file in files]

    def check(self, folder: Path, manifest: bytes, signature: bytes | None) -> None:
        """Refuse an artifact that none of them has signed.

        Args:
            folder: the artifact's folder, for the message.
            manifest: content of its manifest.
            signature: content of its signature; None if it has none.

        Raises:
            UnsignedError: no signature, or not one of theirs.
        """
        from cryptography.exceptions import InvalidSignature

        if signature is None:
            raise UnsignedError(f"the artifact {folder} is not signed", hint="Sign it with `pefttools sign`.")
        for key in self._keys:
            try:
                key.verify(signature, manifest)
            except InvalidSignature:
                continue
            return
        raise UnsignedError(f"the artifact {folder} is not signed by a trusted key, or was changed after signing")


def trusted(files: Sequence[str | Path]) -> Signers | None:
    """Signers by their public keys; None if there are none, so that anybody is trusted.

    Raises:
        ConfigError: as `Signers`; a string instead of a list.
    """
    if isinstance(files, str):
        raise ConfigError(f"signed_by must be a list of key files, not {files!r}")
    return Signers([Path(file) for file in files]) if files else None


def sign(folder: Path, key: Path) -> Path:
    """Sign an artifact after verifying it; returns the signature's file.

    Args:
        folder: the artifact.
        key: private key, as written by `new_key`.

    Raises:
        ArtifactError: it is damaged.
        ConfigError: the key can't be read; `cryptography` is not installed.
    """
    private = _key(key, private=True)
    with hold(folder) as held:
        signature: bytes = private.sign(held.raw)
    write_bytes_atomic(folder / SIGNATURE, signature)
    return folder / SIGNATURE


def new_key(file: Path) -> Path:
    """Make a private key that only its owner can read, and the public one next to it, whose file is returned.

    Raises:
        ConfigError: such a file already exists; `cryptography` is not installed.
    """
    serialization = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public = file.with_name(file.name + ".pub")
    for path in (file, public):
        if path.exists():
            raise ConfigError(f"{path} already exists", hint="Choose another name: a key is never overwritten.")
    write_new(file, secret, 0o600)
    write_new(public, shown, 0o644)
    return public


def _key(file: Path, *, private: bool) -> Any:
    serialization = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    wanted = Ed25519PrivateKey if private else Ed25519PublicKey
    kind = "private" if private else "public"
    try:
        content = file.read_bytes()
        key = (
            serialization.load_pem_private_key(content, None) if private else serialization.load_pem_public_key(content)
        )
    except OSError as error:
        raise ConfigError(f"the key {file} can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is not a {kind} key in PEM format") from error
    if not isinstance(key, wanted):
        raise ConfigError(f"{file} is not an Ed25519 key", hint="Make one with `pefttools signing-key`.")
    return key


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError as error:
        raise ConfigError(
            "signatures need cryptography, which is not installed", hint='pip install "pefttools[sign]"'
        ) from error
    return serialization
