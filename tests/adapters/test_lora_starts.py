"""Where LoRA's factors begin, and LoRA-FA's gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

import pefttools
from pefttools.errors import ConfigError
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.fit import fit
from pefttools.training.optimizer import parameter_groups
from pefttools.training.prepare import prepare
from pefttools.training.rates import Rates

LABELS = ["a", "b"]
MEAN = {"name": "sequence-classification", "head": "mean"}
ROWS = [{"text": f"text number {n} of kind {LABELS[n % 2]}", "label": LABELS[n % 2]} for n in range(40)]


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _batch(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.tokenizer([row["text"] for row in ROWS], padding=True, return_tensors="pt"))


@pytest.mark.parametrize(
    "start", ["zero", "gaussian", "olora", "pissa", "orthogonal", "eva", "corda", "lora-ga", "mica"]
)
@pytest.mark.filterwarnings("ignore:with these options")
def test_the_base_answers_as_before(start: str, tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, precision="float32", start=start)
    plain = pefttools.wrap(tiny_bert, "untuned", labels=LABELS, precision="float32")
    torch.testing.assert_close(model.run_batch(_batch(model)), plain.run_batch(_batch(plain)), atol=1e-5, rtol=1e-5)


def test_eva_begins_at_the_principal_directions_of_the_inputs(tiny_bert: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe = Recipe.model_validate(
        {"base": tiny_bert, "method": {"name": "lora", "r": 3, "start": "eva"}, "output": str(tmp_path / "a"),
         "data": {"train": str(path), "validation": 0.2},
         "training": {"max_steps": 1, "batch_size": 40, "learning_rate": 1e-30, "weight_decay": 0.0,
                      "precision": "float32"}}
    )  # fmt: skip
    prepared = prepare(recipe)
    model = fit(prepared, SilentReporter(), tmp_path / "work").model
    seen: dict[int, torch.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, inputs: seen.update({id(module): inputs[0]}))
        for layer in _layers(model)
    ]
    rows = prepared.examples.train
    model.run([rows[index] for index in range(len(rows))])
    for handle in handles:
        handle.remove()
    for layer in _layers(model):
        states = seen[id(layer)].flatten(0, -2).double()
        directions = torch.linalg.svd(states, full_matrices=False).Vh[:3]
        a = layer.lora_A["default"].weight.detach().double()
        torch.testing.assert_close((a @ directions.T).abs(), torch.eye(3, dtype=torch.float64), atol=2e-3, rtol=0)
        assert float(layer.lora_B["default"].weight.detach().abs().max()) < 1e-20


def test_directions_that_are_not_there_are_refused(tiny_bert: str) -> None:
    with pytest.warns(UserWarning, match="is initialised from the training rows"):
        model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, precision="float32", start="eva", r=16)
    batch = dict(model.tokenizer(["short"], return_tensors="pt"))
    with pytest.raises(ConfigError, match="fewer than 16 directions"):
        model.spec.method.prepare(model.transformer, model.spec.config, [lambda: model(**batch)])


def test_lora_plus_trains_b_faster(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, b_rate=16)
    rates = {id(p): group["lr"] for group in parameter_groups(model, Rates(1e-3, 5e-3), 0.0) for p in group["params"]}
    for layer in _layers(model):
        assert rates[id(layer.lora_A["default"].weight)] == 1e-3
        assert rates[id(layer.lora_B["default"].weight)] == pytest.approx(16e-3)


def test_lora_fa_takes_the_nearest_step_to_the_whole_gradient(tiny_bert: str) -> None:
    """Of the gradient of the weight, what lies in the rows of A: ``scale g_B A = G A^T (A A^T)^-1 A``."""
    model = pefttools.wrap(tiny_bert, "lora", labels=LABELS, precision="float32", r=4, alpha=10, frozen_a=True)
    layers = _layers(model)
    for layer in layers:
        layer.base_layer.weight.requires_grad_(True)
    model.eval()
    model(**_batch(model), targets=torch.tensor([n % 2 for n in range(40)])).backward()
    for layer in layers:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert not a.requires_grad and a.grad is None
        whole = layer.base_layer.weight.grad
        nearest = whole @ a.T @ torch.linalg.inv(a @ a.T) @ a
        torch.testing.assert_close(2.5 * b.grad @ a, nearest, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pissa": True, "start": "olora"}, "lora.pissa and lora.start=olora are mutually exclusive"),
        ({"dora": True, "start": "olora"}, "mutually exclusive"),
        ({"dora": True, "frozen_a": True}, "mutually exclusive"),
        ({"b_rate": 4.0, "frozen_a": True}, "mutually exclusive"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pefttools.wrap(tiny_bert, "lora", labels=LABELS, **options)


@pytest.mark.parametrize("variant", ["nf4", "hqq"])
def test_loftq_gives_back_what_four_bits_round_off(variant: str, tiny_bert: str, tmp_path: Path) -> None:
    from pefttools.deltas.weights import dense_weight

    given: dict[str, Any] = {"task": MEAN, "labels": LABELS, "precision": "float32"}
    model = pefttools.wrap(tiny_bert, "lora", variant=variant, start="loftq", r=16, **given)
    whole = pefttools.wrap(tiny_bert, "untuned", **given).transformer
    errors = []
    for name, layer in model.transformer.named_modules():
        if isinstance(layer, LoraLayer):
            weight = whole.get_submodule(name.removeprefix("base_model.model.")).weight.detach()
            packed = dense_weight(layer.get_base_layer()).float()
            update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            singular = torch.linalg.svdvals(weight - packed)
            left = torch.linalg.norm(weight - packed - update.detach())
            torch.testing.assert_close(left, singular[16:].square().sum().sqrt(), atol=1e-4, rtol=1e-3)
            errors.append(float(left / torch.linalg.norm(weight - packed)))
    assert max(errors) < 0.9
    batch = _batch(model)
    wanted = whole(**batch).last_hidden_state
    plain = pefttools.wrap(tiny_bert, "untuned", variant=variant, **given).transformer
    ours, theirs = (one(**batch).last_hidden_state - wanted for one in (model.transformer, plain))
    assert float(ours.norm()) < float(theirs.norm())
    pefttools.save(model, tmp_path / "artifact")
    again = pefttools.load(tmp_path / "artifact")
    torch.testing.assert_close(again.run_batch(batch), model.run_batch(batch), atol=1e-4, rtol=1e-4)


def test_loftq_needs_four_bits(tiny_bert: str) -> None:
    with pytest.raises(
        ConfigError, match="the quantization error of the 4-bit variants nf4 and hqq, but the variant is float32"
    ):
        pefttools.wrap(tiny_bert, "lora", labels=LABELS, start="loftq")


def test_olora_needs_a_float_base(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"lora\.start=olora can't be used with the variant 'nf4'"):
        pefttools.wrap(tiny_bert, "lora", labels=LABELS, variant="nf4", start="olora")


def _started(base: str, start: str, **options: Any) -> Any:
    with pytest.warns(UserWarning, match="is initialised from the training rows"):
        model = pefttools.wrap(base, "lora", task=MEAN, labels=LABELS, precision="float32", start=start, **options)
    targets = torch.tensor([n % 2 for n in range(40)])
    model.spec.method.prepare(
        model.transformer, model.spec.config, [lambda: model(**_batch(model), targets=targets)] * 2
    )
    return model


@pytest.mark.parametrize("start", ["corda", "lora-ga"])
@pytest.mark.parametrize("base", ["tiny_bert", "tiny_gpt2"])
def test_what_is_taken_off_the_base_leaves_its_answers(
    start: str, base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(base)
    model = _started(path, start, r=4)
    plain = pefttools.wrap(path, "untuned", task=MEAN, labels=LABELS, precision="float32")
    plain.head.load_state_dict(model.head.state_dict())
    batch = _batch(model)
    torch.testing.assert_close(model.run_batch(batch), plain.run_batch(batch), atol=1e-4, rtol=1e-4)
    layers = _layers(model)
    assert all(float(layer.lora_B["default"].weight.detach().abs().max()) > 1e-4 for layer in layers)
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["default"].weight.mul_(1.5)
    trained = model.run_batch(batch)
    assert not torch.allclose(trained, plain.run_batch(batch), atol=1e-3)
    pefttools.save(model, tmp_path / "artifact")
    torch.testing.assert_close(pefttools.load(tmp_path / "artifact").run_batch(batch), trained, atol=1e-4, rtol=1e-4)


def test_corda_keeps_what_matters_to_the_inputs(tiny_bert: str) -> None:
    """The update is W's best approximation of rank r where errors are weighed by the covariance of the inputs."""
    model = _started(tiny_bert, "corda", r=4)
    plain = pefttools.wrap(tiny_bert, "untuned", task=MEAN, labels=LABELS, precision="float32").transformer
    seen: dict[str, torch.Tensor] = {}
    names = [name for name, module in model.transformer.named_modules() if isinstance(module, LoraLayer)]
    own = {name: plain.get_submodule(name.removeprefix("base_model.model.")) for name in names}
    handles = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: seen.update({name: inputs[0]}))
        for name, layer in own.items()
    ]
    plain(**_batch(model))
    for handle in handles:
        handle.remove()
    for name, layer in own.items():
        x = seen[name].flatten(0, -2).double()
        covariance = x.T @ x
        covariance += 0.01 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        weight = layer.weight.detach().double()
        u, s, vh = torch.linalg.svd(weight @ covariance)
        wanted = u[:, :4] @ torch.diag(s[:4]) @ vh[:4] @ torch.linalg.inv(covariance)
        adapted = model.transformer.get_submodule(name)
        found = adapted.scaling["default"] * adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
        torch.testing.assert_close(found.detach().double(), wanted, atol=1e-4, rtol=1e-3)


def test_lora_ga_begins_along_the_gradient(tiny_bert: str) -> None:
    model = _started(tiny_bert, "lora-ga", r=4)
    plain = pefttools.wrap(tiny_bert, "full", task=MEAN, labels=LABELS, precision="float32")
    plain.head.load_state_dict(model.head.state_dict())
    plain.eval()
    plain(**_batch(plain), targets=torch.tensor([n % 2 for n in range(40)])).backward()
    for name, layer in model.transformer.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        gradient: Any = plain.transformer.get_submodule(name.removeprefix("base_model.model.")).weight.grad
        u, singular, _ = torch.linalg.svd(gradient)
        singular = singular.square()
        size = len(gradient) ** 0.25 / 4
        a, b = layer.lora_A["default"].weight.detach() / size, layer.lora_B["default"].weight.detach() / size
        for rows in (a, b.T):
            torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-4, rtol=0)
        # A holds as much of the gradient as four directions can, B what the next four can.
        torch.testing.assert_close((gradient @ a.T).square().sum(), singular[:4].sum(), atol=0, rtol=0.02)
        assert float((b.T @ gradient).square().sum()) > 0.95 * float(singular[4:8].sum())
        assert float((u[:, :4].T @ b).square().sum()) < 1  # of 4: values that are almost equal may change places


def test_too_few_directions_of_a_gradient_are_refused(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match="needs two directions for each of r=40"):
        _started(tiny_bert, "lora-ga", r=40)


@pytest.mark.parametrize("start", ["corda", "lora-ga"])
def test_a_training_that_goes_on_knows_what_was_taken_off(start: str, tiny_bert: str) -> None:
    model = _started(tiny_bert, start, r=4)
    method = model.spec.method
    state = {name: tensor.clone() for name, tensor in method.training_state(model.transformer).items()}
    trained = {name: p.detach().clone() for name, p in model.transformer.named_parameters() if p.requires_grad}
    with pytest.warns(UserWarning, match="is initialised from the training rows"):
        again = pefttools.wrap(tiny_bert, "lora", task=MEAN, labels=LABELS, precision="float32", start=start, r=4)
    with torch.no_grad():
        for name, value in trained.items():
            again.transformer.get_parameter(name).copy_(value)
    again.spec.method.restore_training_state(again.transformer, state)
    again.head.load_state_dict(model.head.state_dict())
    batch = _batch(model)
    torch.testing.assert_close(again.run_batch(batch), model.run_batch(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:with these options")
@pytest.mark.parametrize(("start", "trained", "loaded"), [("pissa", "float32", "nf4"), ("loftq", "nf4", "float32")])
def test_how_it_began_does_not_bind_what_is_trained(
    start: str, trained: str, loaded: str, tiny_bert: str, tmp_path: Path
) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task=MEAN, labels=LABELS, variant=trained, start=start)
    pefttools.save(model, tmp_path / "artifact")
    assert pefttools.load(tmp_path / "artifact", variant=loaded).spec.variant.name == loaded


def test_mica_trains_a_on_the_smallest_components(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task=MEAN, labels=LABELS, precision="float32", start="mica", r=4)
    for layer in _layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.requires_grad and not b.requires_grad and not a.any()
        u = torch.linalg.svd(layer.base_layer.weight.detach()).U[:, : min(layer.base_layer.weight.shape)]
        inside = u[:, -4:].T @ b
        torch.testing.assert_close(inside @ inside.T, torch.eye(4), atol=1e-3, rtol=0)
    (row,) = pefttools.plan(tiny_bert, task=MEAN, methods=[{"name": "lora", "r": 4, "start": "mica"}])
    assert row.trainable_parameters == model.count().trainable
    method = model.spec.method
    state = {name: tensor.clone() for name, tensor in method.training_state(model.transformer).items()}
    assert state and all(".lora_B." in name for name in state)
    with torch.no_grad():
        for name in state:
            model.transformer.get_parameter(name).zero_()
    method.restore_training_state(model.transformer, state)
    assert all(torch.equal(model.transformer.get_parameter(name), value) for name, value in state.items())


@pytest.mark.filterwarnings("ignore:with these options")
def test_ranks_above_what_a_layer_has_begin_as_usual(tiny_bert: str) -> None:
    """A layer of 64 by 64 with 80 directions: 64 from the weight, the others as LoRA's own."""
    model = pefttools.wrap(tiny_bert, "lora", task=MEAN, labels=LABELS, variant="nf4", start="loftq", r=80)
    for layer in _layers(model):
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        size = min(len(b), a.shape[1])
        if size < 80:
            assert bool(b[:, :size].any()) and not b[:, size:].any() and bool(a[size:].any())


def test_layers_that_no_row_passes_begin_at_zero(tiny_bert: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is initialised from the training rows"):
        model = pefttools.wrap(tiny_bert, "lora", task=MEAN, labels=LABELS, precision="float32", start="corda", r=4)
    first = model.transformer.get_base_model().encoder.layer[0]
    model.spec.method.prepare(model.transformer, model.spec.config, [lambda: first(torch.randn(2, 5, 64))])
    with torch.no_grad():
        for layer in _layers(model):
            layer.lora_B["default"].weight.add_(0.01)
    pefttools.save(model, tmp_path / "artifact")
    batch = _batch(model)
    found = pefttools.load(tmp_path / "artifact").run_batch(batch)
    torch.testing.assert_close(found, model.run_batch(batch), atol=1e-4, rtol=1e-4)


def test_lora_ga_leaves_no_gradients(tiny_bert: str) -> None:
    model = _started(tiny_bert, "lora-ga", r=4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_training_goes_on_from_what_began_otherwise(tiny_bert: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe: dict[str, Any] = {
        "base": tiny_bert, "method": {"name": "lora", "r": 3, "start": "gaussian"}, "output": str(tmp_path / "a"),
        "data": {"train": str(path), "validation": 0.2}, "training": {"max_steps": 1, "batch_size": 8},
    }  # fmt: skip
    pefttools.train(recipe)
    again = pefttools.train({**recipe, "from": str(tmp_path / "a"), "output": str(tmp_path / "b")})
    assert again is not None
