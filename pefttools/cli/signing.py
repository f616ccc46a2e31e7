"""``pefttools sign | signing-key``: who made an artifact."""

from __future__ import annotations

from pathlib import Path

import typer


def sign(
    artifact: Path = typer.Argument(help="Folder of an artifact."),
    key: Path = typer.Option(..., "--key", help="Private key, as written by signing-key."),
) -> None:
    """Sign an artifact; `verify` and `serve` ask for signatures with --signed-by.

    Examples:
        pefttools sign artifacts/intents --key key.pem
    """
    from pefttools import api

    print(api.sign(artifact, key))


def signing_key(file: Path = typer.Argument(help="File for the private key; the public key goes to FILE.pub.")) -> None:
    """Make a key to sign artifacts with.

    Examples:
        pefttools signing-key key.pem
    """
    from pefttools import api

    print(f"{file} is the private key; give others {api.signing_key(file)}")
