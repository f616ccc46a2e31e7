"""``pefttools push-to-hub``: uploads an artifact to the Hugging Face hub, without a store."""

from __future__ import annotations

from pathlib import Path

import typer


def push_to_hub(
    artifact: Path = typer.Argument(help="Folder of the artifact.", metavar="ARTIFACT"),
    repository: str = typer.Argument(help="ORG/NAME, or ORG/NAME@BRANCH.", metavar="REPOSITORY"),
    private: bool = typer.Option(True, "--private/--public", help="Visibility of a new repository."),
) -> None:
    """Upload an artifact to the Hugging Face hub; prints the commit's URL.

    Examples:
        pefttools push-to-hub artifacts/intents ORG/NAME
    """
    from pefttools import api

    print(api.push_to_hub(artifact, repository, private=private))
