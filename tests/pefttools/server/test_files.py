"""Pictures and sounds over HTTP: their bytes come with the request, and nothing of the server's own files is read."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
import torch

import pefttools
from tests.pefttools.tasks.samples import SAMPLES

from .conftest import Server

Serve = Callable[..., Server]
PICTURES = [Path(row["image"]) for row in SAMPLES["image-classification"][1][:4]]
SOUNDS = [Path(row["audio"]) for row in SAMPLES["speech-recognition"][1][:4]]


def _adapter(base: str, method: str, task: dict[str, Any], labels: list[str], folder: Path, seed: int) -> Path:
    model = pefttools.wrap(base, method, task=task, labels=labels, precision="float32")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2, generator=generator)
    pefttools.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def of_pictures(tiny_vit: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("pictures")
    task = {"name": "image-classification", "head": "mean"}
    return {
        name: [_adapter(tiny_vit, name, task, ["a", "b", "c"], folder / name, seed)]
        for seed, name in enumerate(("lora", "bottleneck"))
    }


@pytest.fixture(scope="module")
def of_sounds(tiny_whisper: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("sounds")
    writes = {"name": "speech-recognition", "max_target_length": 16, "max_new_tokens": 6}
    hears = {"name": "audio-classification", "head": "mean", "max_seconds": 0.5}
    return {
        "lora": [_adapter(tiny_whisper, "lora", {**writes, "max_seconds": 0.3}, [], folder / "lora", 0)],
        "ia3": [_adapter(tiny_whisper, "ia3", {**writes, "max_seconds": 0.5}, [], folder / "ia3", 1)],
        "commands": [_adapter(tiny_whisper, "lora", hears, ["a", "b"], folder / "commands", 2)],
    }


def _content(file: Path) -> dict[str, str]:
    return {"base64": base64.b64encode(file.read_bytes()).decode()}


def test_pictures(serve: Serve, of_pictures: dict[str, list[Path]], tiny_vit: str) -> None:
    server = serve(tiny_vit, of_pictures)
    for name, (folder,) in of_pictures.items():
        rows = [{"image": _content(file)} for file in PICTURES]
        found = server.http.post("/v1/predict", json={"model": name, "input": rows, "scores": True}).json()["data"]
        alone = pefttools.predict(folder, [str(file) for file in PICTURES], all_scores=True)
        assert [one["prediction"] for one in found] == [one["prediction"] for one in alone]
        assert [one["scores"] for one in found] == [pytest.approx(one["scores"], abs=1e-5) for one in alone]


def test_what_is_no_picture(serve: Serve, of_pictures: dict[str, list[Path]], tiny_vit: str) -> None:
    server = serve(tiny_vit, of_pictures)
    cases: list[tuple[Any, str]] = [
        (str(PICTURES[0]), "row 1: image must be a file"),
        ({"image": str(PICTURES[0])}, "row 1: image must be a file"),
        ({"image": "https://example.com/a.png"}, "row 1: image must be a file"),
        ({"image": {"base64": "%%%"}}, "row 1, column 'image': not valid base64"),
        ({"image": {"base64": "é"}}, "row 1, column 'image': not valid base64"),
        (
            {"image": {"base64": "JSFQUy1BZG9iZS0zLjAgRVBTRi0zLjAKJSVCb3VuZGluZ0JveDogMCAwIDEgMQpzaG93cGFnZQo="}},
            "the bytes are not a picture in a known format",
        ),
        ({"image": {"base64": "bm8gcGljdHVyZQ=="}}, "the bytes are not a picture in a known format"),
        ({"image": {"base64": "bm8=", "path": "/etc/passwd"}}, "Extra inputs are not permitted|no option|extra"),
        ({"text": "a text"}, "does not read 'text'"),
        ({"text": {"base64": "bm8="}}, "row 1: text must be a text"),
    ]
    for given, said in cases:
        answer = server.http.post("/v1/predict", json={"model": "lora", "input": given})
        assert answer.status_code in (400, 404), (given, answer.text)
        assert any(one in answer.json()["error"]["message"] for one in said.split("|")), (given, answer.text)


def test_a_damaged_picture_among_good_ones(serve: Serve, of_pictures: dict[str, list[Path]], tiny_vit: str) -> None:
    cut = base64.b64encode(PICTURES[0].read_bytes()[:60]).decode()
    rows = [{"image": {"base64": cut}}, {"image": _content(PICTURES[1])}, {"image": {"base64": "%"}}]
    server = serve(tiny_vit, of_pictures)
    found = server.http.post("/v1/predict", json={"model": "lora", "input": rows, "on_error": "skip"}).json()["data"]
    assert "row 1, column 'image': the picture can't be decoded" in found[0]["error"]["message"]
    assert found[1]["prediction"] in ("a", "b", "c")
    assert "row 3, column 'image': not valid base64" in found[2]["error"]["message"]


def test_a_server_of_pictures_takes_no_texts(serve: Serve, of_pictures: dict[str, list[Path]], tiny_vit: str) -> None:
    server = serve(tiny_vit, of_pictures)
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    for path, body in (
        ("chat/completions", chat), ("completions", {"prompt": str(PICTURES[0])}), ("classify", {"input": "hello"}),
        ("embeddings", {"input": "hello"}),
    ):  # fmt: skip
        answer = server.http.post(f"/v1/{path}", json={"model": "lora", **body})
        assert answer.status_code == 404, (path, answer.text)
        assert answer.json()["error"]["code"] == "model_not_suited"


def test_transcripts_by_the_official_client(serve: Serve, of_sounds: dict[str, list[Path]], tiny_whisper: str) -> None:
    server = serve(tiny_whisper, of_sounds)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    said = set()
    for name in ("lora", "ia3"):
        alone = [one["prediction"] for one in pefttools.predict(of_sounds[name][0], [str(file) for file in SOUNDS])]
        said.add(tuple(alone))
        for file, wanted in zip(SOUNDS, alone, strict=True):
            found = client.audio.transcriptions.create(model=name, file=file)
            assert found.text == wanted
            assert found.usage is not None and found.usage.type == "duration" and found.usage.seconds == 1
        with SOUNDS[0].open("rb") as stream:
            plain = client.audio.transcriptions.create(model=name, file=stream, response_format="text", temperature=0)
        assert str(plain) == f"{alone[0]}\n"
        events = list(client.audio.transcriptions.create(model=name, file=SOUNDS[1], stream=True))
        assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
        assert "".join(event.delta for event in events[:-1]).strip() == alone[1]  # type: ignore[union-attr]
        assert events[-1].type == "transcript.text.done" and events[-1].text == alone[1]
    assert len(said) == 2, "both adapters write the same"
    base = client.audio.transcriptions.create(model=server.service.settings.name, file=SOUNDS[0])
    assert base.text != alone[0]


def test_transcripts_and_commands_by_rows(serve: Serve, of_sounds: dict[str, list[Path]], tiny_whisper: str) -> None:
    server = serve(tiny_whisper, of_sounds)
    rows = [{"audio": _content(file)} for file in SOUNDS]
    for name, (folder,) in of_sounds.items():
        found = server.http.post("/v1/predict", json={"model": name, "input": rows}).json()["data"]
        alone = pefttools.predict(folder, [str(file) for file in SOUNDS])
        assert [one["prediction"] for one in found] == [one["prediction"] for one in alone]


def _wave(seconds: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(16_000 * seconds), dtype=np.float32), 16_000, format="WAV")
    return buffer.getvalue()


def test_what_is_not_written_down(serve: Serve, of_sounds: dict[str, list[Path]], tiny_whisper: str) -> None:
    server = serve(tiny_whisper, of_sounds)
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"file": b"no sound"}, 400, "the bytes are not a sound in a known format"),
        ({"file": _wave(0.4)}, 400, "the audio is 0.4 s long, but this model takes 0.3 s"),
        ({"file": _wave(0.2)[:60]}, 400, "is cut short"),
        ({"model": "commands"}, 404, "the model 'commands@1' can't transcribe"),
        ({"model": "nobody"}, 404, "nobody"),
        ({"response_format": "srt"}, 400, "response_format"),
        ({"language": "de"}, 404, "the language can't be chosen"),
        ({"file": b""}, 400, "the file is empty"),
        ({"prompt": "a style"}, 400, "prompt is not supported here"),
        ({"temprature": 0.5}, 400, "did you mean 'temperature'"),
    ]
    for given, status, said in cases:
        asked = {"model": "lora", "file": _wave(0.2), **given}
        answer = server.http.post("/v1/audio/transcriptions", files={"file": ("a.wav", asked.pop("file"))}, data=asked)
        assert answer.status_code == status, (given, answer.text)
        assert said in answer.json()["error"]["message"], (given, answer.text)


def test_a_form_is_asked_for(serve: Serve, of_sounds: dict[str, list[Path]], tiny_whisper: str) -> None:
    server = serve(tiny_whisper, of_sounds, max_file_bytes=20_000)
    answer = server.http.post("/v1/audio/transcriptions", json={"model": "lora"})
    assert answer.status_code == 400
    assert (
        answer.json()["error"]["message"]
        == "the body must be a form, with the header content-type: multipart/form-data"
    )
    large = server.http.post("/v1/audio/transcriptions", data={"model": "lora"}, files={"file": _wave(2.0)})
    assert large.status_code == 413
    assert large.json()["error"]["message"] == "the request is larger than 20,000 bytes"


def test_speech_is_asked_of_a_base_that_hears(serve: Serve, classifiers: Callable[[int], Path], tiny_bert: str) -> None:
    server = serve(tiny_bert, {"one": [classifiers(0)]})
    answer = server.http.post("/v1/audio/transcriptions", data={"model": "one"}, files={"file": _wave(0.1)})
    assert answer.status_code == 404
    assert json.loads(answer.text)["error"]["message"] == "the model 'one@1' can't transcribe"
