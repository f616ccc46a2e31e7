"""What a method does besides its promises: packed rows, plans, exports, compiled models. Each works or says why not."""

from __future__ import annotations

import torch

import pefttools
from pefttools.bases import locate_base
from pefttools.errors import PeftToolsError
from pefttools.planning.counter import weights_of
from pefttools.tasks.language.padding_free import without_padding
from pefttools.testing.alone import assert_same_gradients, gradients_of, gradients_on, rebuilt
from pefttools.testing.subject import WORKS, DifferenceError, Outcome, Subject, assert_alike, in_float32, logits_of
from pefttools.tuned import TunedModel

#: a rank that no site of a tiny model reaches, so that the export of any change of weights is exact
_FULL_RANK = 4096
#: share that may be left out of an export that counts as exact
_EXACT = 1e-4
#: share by which the bytes of weights may differ from the plan
_OF_PLAN = 0.02


def check_packed(subject: Subject) -> Outcome:
    """Several texts in one row give the same gradients as in separate rows."""
    model = subject.model
    task = model.spec.task
    if not task.packs(model):
        if (why := task.why_padded(model)) is not None:
            return Outcome("refused", why)
        if task.generates and not task.encoder_decoder and not model.capabilities.packing:
            return Outcome("refused", "it does not treat all positions of a row alike, so that rows are padded")
        return Outcome("not tried", "the task packs no rows")
    if model.capabilities.trains == "nothing":
        return Outcome("not tried", "it trains nothing")
    rows = task.collate(subject.examples, model.processor)
    packed = gradients_on(model, without_padding(subject.examples), dropout=False)
    padded = gradients_on(model, rows, dropout=False)
    assert_same_gradients(
        "packing", packed, padded, model, lambda: gradients_on(in_float32(model), rows, dropout=False)
    )
    return WORKS


def check_planned(subject: Subject) -> Outcome:
    """A plan from the base's configuration gives the right number of trained parameters and bytes of weights."""
    model = subject.model
    task = model.spec.task
    longest = max(task.size(one) for one in subject.examples)
    try:
        (row,) = pefttools.plan(
            subject.base, task=subject.task, methods=[subject.method], variants=[model.spec.variant.name],
            labels=len(model.labels), precision="float32",
            batch_size=2, eval_batch_size=2, length=longest,
        )  # fmt: skip
    except PeftToolsError as error:
        return Outcome("refused", str(error))
    trained = model.count().trainable
    # Tensors that share a storage count once.
    stored = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights_of(model)}.values())
    if row.trainable_parameters != trained:
        raise DifferenceError(f"a plan counts {row.trainable_parameters} trained parameters, but there are {trained}")
    if abs(row.weights_bytes - stored) > _OF_PLAN * stored:
        raise DifferenceError(f"a plan counts {row.weights_bytes} bytes of weights, but there are {stored}")
    return WORKS


def check_exported(subject: Subject) -> Outcome:
    """An export as a plain LoRA gives the same results in PEFT alone."""
    model = subject.model
    spec = model.spec
    if spec.variant.quantized:
        return Outcome("not tried", "exports are compared on bases that are not quantized")
    folder = subject.folder / "exported"
    try:
        error = pefttools.export(subject.artifact, folder, rank=_FULL_RANK)
    except PeftToolsError as refusal:
        assert not folder.exists(), "something was written nevertheless"
        return Outcome("refused", str(refusal))
    if error > _EXACT:
        raise DifferenceError(f"an export of full rank leaves out {error:.2e}")
    from peft import PeftModel

    plain = spec.task.build(locate_base(subject.base), spec.variant, model.labels)
    adapted = PeftModel.from_pretrained(plain.transformer, folder).eval()
    with_head = TunedModel(adapted, model.head, spec, model.processor, None).eval()
    assert_alike("what was exported", logits_of(with_head, subject.examples), subject.trained, model)
    return WORKS


def check_compiled(subject: Subject) -> Outcome:
    """`torch.compile` changes no gradient. Dropout is off: compiled code draws different random numbers."""
    if subject.model.spec.method.capabilities.trains == "nothing":
        return Outcome("not tried", "it trains nothing")
    again = rebuilt(subject)
    eager = gradients_of(again, subject.examples, dropout=False)
    torch.compiler.reset()
    again.transformer.compile()
    try:
        compiled = gradients_of(again, subject.examples, dropout=False)
    finally:
        torch.compiler.reset()
    assert_same_gradients("torch.compile", compiled, eager, subject.model)
    return WORKS
