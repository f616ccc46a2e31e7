"""Whether the model hub can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from urllib.request import getproxies

from pefttools.installation.finding import Finding, shown

_SECONDS = 3.0
_WITHOUT = "a folder, a package: reference or a model that was downloaded before still works"


def hub(seconds: float = _SECONDS) -> Iterator[Finding]:
    """One request, as the hub's own library sends it: through the same proxy, with the same certificates."""
    from huggingface_hub import constants

    place = constants.ENDPOINT
    data = {"endpoint": place, "offline": constants.HF_HUB_OFFLINE, "reachable": False}
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "offline mode", "note", f"HF_HUB_OFFLINE is set: {_WITHOUT}", data=data)
        return
    answers: list[int | Exception] = []
    # A name server that does not answer keeps a request waiting regardless of its own time limit.
    thread = Thread(target=_ask, args=(place, seconds, answers), daemon=True)
    thread.start()
    thread.join(seconds + 1)
    proxies = getproxies()
    through = " through a proxy" if place.partition(":")[0] in proxies or "all" in proxies else ""
    answer = answers[0] if answers else TimeoutError(f"no answer in {seconds:g} s")
    if isinstance(answer, int) and answer < 500:
        yield Finding("hub", place, "ok", f"reachable{through}", data={**data, "reachable": True})
        return
    why = f"answers with {answer}" if isinstance(answer, int) else shown(answer)
    yield Finding(
        "hub", place, "note", f"not reachable{through} ({why}): {_WITHOUT}",
        "Set HF_HUB_OFFLINE=1 to save the time of trying, HF_ENDPOINT for another hub, HTTPS_PROXY for a proxy.", data,
    )  # fmt: skip


def _ask(place: str, seconds: float, answers: list[int | Exception]) -> None:
    try:
        from huggingface_hub import get_session

        answers.append(get_session().head(place, timeout=seconds).status_code)
    except Exception as error:
        answers.append(error)
