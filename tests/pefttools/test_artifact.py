"""An artifact is whole, its own, and on its own base, or it is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.artifact.manifest import MANIFEST, read_manifest, verify_files
from pefttools.artifact.save import to_float16
from pefttools.bases import locate_base
from pefttools.errors import ArtifactError, BaseModelError, ConfigError
from pefttools.files import canonical_json, folder_atomic

LABELS = ["yes", "no", "<script>"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    model = pefttools.wrap(
        tiny_bert, "lora", r=2, labels=LABELS, task={"name": "sequence-classification", "head": "mean"}
    )
    folder = tmp_path_factory.mktemp("artifact") / "one"
    pefttools.save(model, folder)
    return folder


def _check(folder: Path) -> None:
    verify_files(folder, read_manifest(folder))


def test_files_and_manifest(artifact: Path, tiny_bert: str) -> None:
    names = {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "README.md", MANIFEST}
    assert {path.name for path in artifact.iterdir()} == names
    manifest = read_manifest(artifact)
    assert manifest.base.weights == locate_base(tiny_bert).weights
    assert manifest.task.labels == LABELS
    config = json.loads((artifact / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == manifest.base.id
    assert "&lt;script&gt;" in (artifact / "README.md").read_text()
    assert (artifact.stat().st_mode & 0o777) == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_flipped_byte_and_each_truncation_is_detected(
    data: st.DataObject, artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("damaged") / "copy"
    shutil.copytree(artifact, copy)
    file = copy / data.draw(st.sampled_from(sorted(path.name for path in artifact.iterdir())))
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= data.draw(st.integers(1, 255))
    else:
        del content[position:]
    file.write_bytes(content)
    with pytest.raises(ArtifactError):
        _check(copy)
    shutil.rmtree(copy)


def test_a_missing_file_is_named(artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / "head.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"head\.safetensors is missing"):
        pefttools.load(copy)


def test_a_base_of_the_same_shape_with_other_weights_is_refused(artifact: Path, tiny_bert: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_bert, tmp_path / "other"))
    state = load_file(other / "model.safetensors")
    name = sorted(state)[0]
    state[name] = state[name] + 1e-3
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="same structure with different weights") as caught:
        pefttools.load(artifact, base=str(other))
    assert str(other) in caught.value.message and tiny_bert in caught.value.message
    moved = shutil.copytree(tiny_bert, tmp_path / "moved")
    assert pefttools.load(artifact, base=str(moved)).labels == tuple(LABELS)


def test_a_base_of_another_shape_is_refused(artifact: Path, tiny_llama: str) -> None:
    with pytest.raises(BaseModelError, match="is llama with structure"):
        pefttools.load(artifact, base=tiny_llama)


def test_the_same_weights_in_another_variant_are_allowed(artifact: Path) -> None:
    model = pefttools.load(artifact, variant="nf4")
    assert model.spec.variant.name == "nf4"
    assert len(pefttools.predict(model, ["some text"])) == 1


def _rewrite(folder: Path, **changes: object) -> None:
    import hashlib

    content = json.loads((folder / MANIFEST).read_text())
    content.pop("digest")
    content |= changes
    content["digest"] = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    (folder / MANIFEST).write_text(canonical_json(content))


def test_schema_versions(artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    _rewrite(copy, schema_version="1.7", novelty={"kept": True})
    assert read_manifest(copy).model_dump()["novelty"] == {"kept": True}
    _rewrite(copy, schema_version="2.0")
    with pytest.raises(ArtifactError, match=r"schema 2\.0"):
        read_manifest(copy)


def test_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        pefttools.load(tmp_path)
    with pytest.raises(ArtifactError, match="does not exist"):
        pefttools.load(tmp_path / "nothing")


def test_float16_halves_the_files_or_leaves_them(tmp_path: Path) -> None:
    save_file({"a": torch.randn(64, 64)}, tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").stat().st_size
    assert to_float16(tmp_path) is None
    assert (tmp_path / "w.safetensors").stat().st_size < 0.52 * before
    save_file({"a": torch.tensor([1e6])}, tmp_path / "w.safetensors")
    lost = to_float16(tmp_path)
    assert lost is not None and lost.endswith("a weight is too large for float16")
    assert load_file(tmp_path / "w.safetensors")["a"].dtype == torch.float32


def test_a_failed_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with folder_atomic(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), folder_atomic(target) as folder:
        (folder / "a").write_text("new")
        raise RuntimeError("in the middle")
    assert (target / "a").read_text() == "old"
    with folder_atomic(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't write"), folder_atomic(tmp_path / "file" / "inner"):
        pass


def _write_for_ever(target: str) -> None:
    number = 0
    while True:
        number += 1
        with folder_atomic(Path(target)) as folder:
            for name in "abc":
                (folder / name).write_text(str(number) * 50_000)


def test_kill_9_while_saving_leaves_a_whole_folder(tmp_path: Path) -> None:
    import random

    generator = random.Random(0)
    target = tmp_path / "target"
    context = multiprocessing.get_context("fork")
    seen, pace = set(), 0.0
    for _ in range(20):
        begun = time.monotonic()
        process = context.Process(target=_write_for_ever, args=(str(target),))
        process.start()
        while not target.exists() and time.monotonic() < begun + 30:
            time.sleep(0.001)
        pace = pace or time.monotonic() - begun  # of a process and its first folder, on however busy a machine
        time.sleep(generator.uniform(0.0, 3 * pace))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        contents = {name: (target / name).read_text() for name in "abc"}
        assert len(set(contents.values())) == 1, "parts of two writes"
        seen.add(contents["a"][:5])
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (1e-9, "14,336 of 14,336 values are so small that float16 makes them 0"),
        (4e-6, r"of 14,336 values are so small that float16 makes them 0"),
        (2e-2, None),
    ],
)
def test_float16_does_not_lose_small_values(tmp_path: Path, size: float, said: str | None) -> None:
    values = torch.randn(14_336, generator=torch.Generator().manual_seed(0)) * size
    save_file({"large": torch.ones(3), "small": values}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    lost = to_float16(tmp_path)
    if said is None:
        # A few values close to 0 among larger ones are not loss.
        assert lost is None
    else:
        assert lost is not None and lost.startswith("a.safetensors, small: ") and said in lost
        assert torch.equal(load_file(tmp_path / "a.safetensors")["small"], values), "nothing is changed"


def test_save_refuses_float16_that_would_lose_the_adapter(tiny_bert: str, tmp_path: Path) -> None:
    task = {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(tiny_bert, "lora", task=task, labels=LABELS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-8)
    with pytest.raises(ConfigError, match=r"lora_B.* values are so small that float16 makes them 0"):
        pefttools.save(model, tmp_path / "a", storage="float16")
    assert not (tmp_path / "a").exists()
    pefttools.save(model, tmp_path / "a")
    assert pefttools.inspect(tmp_path / "a").storage == "float32"


def test_weights_of_another_shape_are_an_error_of_the_artifact(tiny_bert: str, tmp_path: Path) -> None:
    """As earlier versions saved for bases whose embeddings are smaller than their states."""
    from safetensors.torch import load_file, save_file

    from pefttools.files import sha256_file

    model = pefttools.wrap(
        tiny_bert, {"name": "prompt", "length": 3}, task={"name": "sequence-classification", "head": "mean"},
        labels=["a", "b"],
    )  # fmt: skip
    pefttools.save(model, tmp_path / "artifact")
    file = tmp_path / "artifact" / "adapter_model.safetensors"
    save_file({name: tensor[:, :-1].contiguous() for name, tensor in load_file(file).items()}, file)
    entry = {"sha256": sha256_file(file), "size": file.stat().st_size}
    files = read_manifest(tmp_path / "artifact").model_dump()["files"]
    _rewrite(tmp_path / "artifact", files={**files, file.name: entry})
    with pytest.raises(
        ArtifactError, match=r"the stored state of the method .prompt. does not fit the base .*size mismatch"
    ):
        pefttools.load(tmp_path / "artifact")
