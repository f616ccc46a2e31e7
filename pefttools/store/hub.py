"""Artifacts on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from pefttools.artifact.reading import hold
from pefttools.errors import ConfigError, PeftToolsError

_REFERENCE = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


class HubError(PeftToolsError):
    """The hub could not be reached, or refused the request."""

    exit_code = 1


def repository(reference: str) -> tuple[str, str | None]:
    """Repository and revision of ``hub:ORG/NAME[@REVISION]``.

    Raises:
        ConfigError: the reference does not have this form.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"{reference!r} does not name a repository on the hub", hint="Write it as hub:ORG/NAME or hub:ORG/NAME@REV."
        )
    return match[1], match[2]


def push(artifact: Path, target: str, *, private: bool = True) -> str:
    """Upload a verified artifact in one commit; returns the commit's URL.

    Raises:
        ConfigError: not a repository on the hub.
        HubError: the hub could not be reached, or refused the request.
    """
    from huggingface_hub import HfApi

    repo, revision = repository(target)
    with hold(artifact) as held:
        manifest = held.manifest
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=held.folder,
                revision=revision,
                delete_patterns=["*.safetensors", "*.json", "*.sig"],
                commit_message=f"pefttools adapter: {manifest.method.name} on {manifest.base.id}",
            )
        except Exception as error:
            raise _hub_error(error, repo) from error
    return str(done.commit_url)


def pull(source: str) -> Path:
    """Download an artifact and verify it; returns a folder in the hub's cache.

    Raises:
        ConfigError: not a repository on the hub.
        HubError: the hub could not be reached, or has no such repository.
        ArtifactError: the download is not an artifact, or is damaged.
    """
    from huggingface_hub import snapshot_download

    repo, revision = repository(source)
    try:
        folder = Path(snapshot_download(repo, revision=revision))
    except Exception as error:
        raise _hub_error(error, repo) from error
    with hold(folder):
        return folder


def _hub_error(error: Exception, repo: str) -> HubError:
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"the hub has no repository {repo!r}, or you have no access to it", hint="Log in: hf auth login."
        )
    # Errors of the connection come from whichever HTTP library the hub's client uses.
    from_http = type(error).__module__.partition(".")[0].startswith("httpx")
    if not from_http and not isinstance(error, LocalEntryNotFoundError | OSError):
        raise error
    return HubError(f"the hub request failed for {repo!r}: {error}")
