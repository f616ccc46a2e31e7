"""A row of a mixed batch gets what its adapter alone gives it, loaded by its method on a fresh base."""

from __future__ import annotations

import pytest
import torch

import pefttools
from pefttools.adapters.peft_weights import PeftWeights
from pefttools.errors import ConfigError
from pefttools.methods import methods

from ...methods import CORE, OTHERS, daily
from .makers import TEXTS, VARIED, Make, alone, assert_close

#: two rows of the base among six of four adapters
ROWS = [0, None, 1, 2, 3, 0, None, 1]
TEXT_OF_ROW = [TEXTS[index % 4] for index in (0, 1, 1, 2, 3, 3, 0, 2)]
BASES = [
    ("tiny_bert", "mean"),
    ("tiny_bert", "model"),
    ("tiny_llama", "lm"),
    pytest.param("tiny_llama", "model", marks=pytest.mark.slow),
    pytest.param("tiny_llama", "last", marks=pytest.mark.slow),
    pytest.param("tiny_gpt2", "lm", marks=pytest.mark.slow),
]


def _suits(method: str, head: str, fixture: str) -> bool:
    if method == "bitfit" and fixture == "tiny_llama":
        return False  # a Llama has no biases
    if method == "trainable_tokens" and head == "model":
        return False  # PEFT can't train transformers' own head beside it
    plugin = methods.get(method)
    if fixture == "tiny_gpt2" and issubclass(plugin, PeftWeights) and not plugin.conv1d:
        return False
    return not (plugin.capabilities.trains == "head" and head == "lm")


#: of the many methods that are alike a third is for every day on one base and a third on another, or none
CORE_ONLY = 3


def _adapters(head: str, fixture: str, most: int, share: int | None) -> list[tuple[str, int]]:
    """Methods and numbers of adapters: several of the core ones, of the others one each, or of a third of them."""
    found = []
    for method in VARIED:
        if _suits(method, head, fixture):
            first = method in CORE
            if first or share is None or OTHERS.index(method) % 3 == share:
                found += [(method, number) for number in range(most if first else 1)]
    return found


#: heads and formats that are tried every day, each format once
NEIGHBOURS = {("mean", "int8"), ("lm", "nf4"), ("model", "hqq"), ("lm", "torchao-int8")}


def test_every_registered_method_is_tried_or_refused() -> None:
    assert {name for name in methods if methods.get(name).capabilities.deltas} == set(VARIED)


# Those of `CORE` share a batch below, every day.
@pytest.mark.parametrize("method", daily(("lora",), VARIED))
@pytest.mark.parametrize(("fixture", "head"), BASES)
def test_rows_of_one_method(
    fixture: str, head: str, method: str, artifact: Make, request: pytest.FixtureRequest
) -> None:
    if not _suits(method, head, fixture):
        return
    base = request.getfixturevalue(fixture)
    folders = [artifact(base, head, method, number) for number in range(4)]
    pool = pefttools.AdapterPool(base, max_resident=4)
    for number, folder in enumerate(folders):
        pool.load(str(number), folder)
    names = [None if row is None else str(row) for row in ROWS]
    answers = pool(TEXT_OF_ROW, names)
    models = [pefttools.load(folder) for folder in folders]
    differing = set()
    for row, text, answer in zip(ROWS, TEXT_OF_ROW, answers, strict=True):
        if row is None:
            assert answer.labels == ()
            continue
        assert answer.logits is not None
        assert answer.labels == models[row].labels
        assert_close(answer.logits, alone(models[row], text))
        differing.add(round(float(answer.logits.sum()), 3))
    assert method == "untuned" or len(differing) > 4


@pytest.mark.parametrize(
    ("fixture", "head", "share"),
    [
        ("tiny_bert", "mean", 0),
        pytest.param("tiny_llama", "lm", CORE_ONLY, marks=pytest.mark.slow),
        pytest.param("tiny_bert", "model", CORE_ONLY, marks=pytest.mark.slow),
        pytest.param("tiny_llama", "lm", 1, marks=pytest.mark.slow),
        pytest.param("tiny_bert", "model", None, marks=pytest.mark.slow),
        pytest.param("tiny_bert", "mean", None, marks=pytest.mark.slow),
        pytest.param("tiny_llama", "lm", None, marks=pytest.mark.slow),
        pytest.param("tiny_llama", "model", None, marks=pytest.mark.slow),
        pytest.param("tiny_llama", "last", None, marks=pytest.mark.slow),
        pytest.param("tiny_gpt2", "lm", None, marks=pytest.mark.slow),
    ],
)
def test_all_methods_in_one_batch(
    fixture: str, head: str, share: int | None, artifact: Make, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(fixture)
    chosen = _adapters(head, fixture, 4, share)
    pool = pefttools.AdapterPool(base, max_resident=len(chosen))
    for method, number in chosen:
        pool.load(f"{method}-{number}", artifact(base, head, method, number))
    names = [None, *(f"{method}-{number}" for method, number in chosen), None]
    texts = [TEXTS[index % 4] for index in range(len(names))]
    answers = pool(texts, names)
    plain = pefttools.AdapterPool(base)
    for text, name, answer in zip(texts, names, answers, strict=True):
        if name is None:
            expected = plain([text], [None])[0]
            kind = "logits" if fixture != "tiny_bert" else "states"
            assert_close(getattr(answer, kind), getattr(expected, kind))
        else:
            method, seed = name.rsplit("-", 1)
            assert answer.logits is not None
            assert_close(answer.logits, alone(pefttools.load(artifact(base, head, method, int(seed))), text))


@pytest.mark.parametrize(
    ("fixture", "share"),
    [
        ("tiny_llama", CORE_ONLY),
        pytest.param("tiny_llama", None, marks=pytest.mark.slow),
        pytest.param("tiny_gpt2", None, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("beams", [1, 3])
def test_generated_tokens(
    fixture: str, share: int | None, beams: int, artifact: Make, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(fixture)
    chosen = _adapters("lm", fixture, 2, share)
    pool = pefttools.AdapterPool(base, max_resident=len(chosen))
    for method, number in chosen:
        pool.load(f"{method}-{number}", artifact(base, "lm", method, number))
    names = [f"{method}-{number}" for method, number in chosen]
    texts = [TEXTS[index % 4] for index in range(len(names))]
    found = pool.generate_tokens(texts, names, max_new_tokens=8, num_beams=beams)
    for row, (method, number) in enumerate(chosen):
        model = pefttools.load(artifact(base, "lm", method, number))
        inputs = dict(model.tokenizer(texts[row], return_tensors="pt"))
        inputs.pop("token_type_ids", None)
        wanted = model.generate(inputs, max_new_tokens=8, num_beams=beams)[0]
        single = pool.generate_tokens([texts[row]], [names[row]], max_new_tokens=8, num_beams=beams)[0]
        assert single.tolist() == wanted.tolist(), (method, number)
        assert found[row, : len(wanted)].tolist() == wanted.tolist(), (method, number)
        assert (found[row, len(wanted) :] == model.tokenizer.pad_token_id).all()


@pytest.mark.slow
@pytest.mark.parametrize("share", [CORE_ONLY, *range(3)])
def test_float64_is_exact(share: int, tiny_llama: str, artifact: Make) -> None:
    """But for methods that compute a part of what they do in float32 whatever they are told."""
    chosen = [
        one
        for one in _adapters("model", "tiny_llama", 2, share)
        if one[0] not in ("adamss", "c3a", "deft", "fourierft")
    ]
    pool = pefttools.AdapterPool(tiny_llama, dtype=torch.float64)
    for method, number in chosen:
        pool.load(f"{method}-{number}", artifact(tiny_llama, "model", method, number))
    texts = [TEXTS[index % 4] for index in range(len(chosen))]
    answers = pool(texts, [f"{method}-{number}" for method, number in chosen])
    for text, (method, number), answer in zip(texts, chosen, answers, strict=True):
        model = pefttools.load(artifact(tiny_llama, "model", method, number)).double()
        assert answer.logits is not None
        assert float((answer.logits - alone(model, text)).abs().max()) < 1e-9


def test_a_method_without_deltas_is_refused_by_name(tiny_bert: str, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path), "full")
    pefttools.save(pefttools.wrap(tiny_bert, "full", task={"name": "sequence-classification", "head": "mean"},
                                  labels=["a", "b"]), folder)  # fmt: skip
    pool = pefttools.AdapterPool(tiny_bert)
    with pytest.raises(ConfigError, match="'full' has no delta form: it can't be pooled"):
        pool.load("full", folder)
    assert pool.resident == []


@pytest.mark.parametrize(
    ("fixture", "head", "variant"),
    [
        pytest.param(fixture, head, variant, marks=() if (head, variant) in NEIGHBOURS else pytest.mark.slow)
        for fixture, head in (("tiny_bert", "mean"), ("tiny_bert", "model"), ("tiny_llama", "lm"))
        for variant in ("int8", "nf4", "hqq", "torchao-int8")
    ],
)
def test_a_neighbour_changes_no_bit_on_a_quantized_base(
    fixture: str, head: str, variant: str, artifact: Make, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(fixture)
    chosen = [(m, n) for m in ("lora", "ia3", "bottleneck", "prefix") for n in (0, 1)]
    pool = pefttools.AdapterPool(base, variant=variant)
    for method, number in chosen:
        pool.load(f"{method}-{number}", artifact(base, head, method, number))
    names = [f"{method}-{number}" for method, number in chosen]
    texts = [TEXTS[1]] * len(names)
    first = pool(texts, names)
    for row in range(len(names)):
        # All others are another text with another adapter; prefixes stay, since they set the padded length.
        others = [name if row == i or name.startswith("prefix") else names[(i + 3) % 6] for i, name in enumerate(names)]
        changed = [text if row == i else "an other text as long as it" for i, text in enumerate(texts)]
        again = pool(changed, others)[row]
        assert first[row].logits is not None
        assert torch.equal(first[row].logits, again.logits)  # type: ignore[arg-type]


def test_sampled_tokens_do_not_depend_on_neighbours(tiny_llama: str, artifact: Make) -> None:
    from pefttools.pool.generation import Sampling

    pool = pefttools.AdapterPool(tiny_llama)
    for number in range(3):
        pool.load(str(number), artifact(tiny_llama, "lm", "lora", number))
    drawn = Sampling(seed=5, temperature=0.7, top_k=50, top_p=0.9)
    alone_ids = pool.generate_tokens([TEXTS[0]], ["0"], max_new_tokens=10, sampling=drawn)[0]
    texts, names = [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[0]], ["1", "0", None, "0"]
    others = [Sampling(seed=9), drawn, None, Sampling(seed=6, temperature=0.7, top_k=50, top_p=0.9)]
    together = pool.generate_tokens(texts, names, max_new_tokens=10, sampling=others)
    assert together[1].tolist() == alone_ids.tolist()
    assert together[3].tolist() != alone_ids.tolist()
    greedy = pool.generate_tokens([TEXTS[2]], [None], max_new_tokens=10)[0]
    assert together[2].tolist() == greedy.tolist()


def test_draws_follow_the_softmax() -> None:
    from pefttools.pool.generation import Sampling, _Draw

    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draw = _Draw([Sampling(seed=1, temperature=0.5)], torch.device("cpu"))
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[draw(torch.zeros(1, 0), logits).argmax()] += 1
    assert torch.allclose(counts / 4000, (logits[0] / 0.5).softmax(-1), atol=0.02)
    only = _Draw([Sampling(seed=1, top_k=1)], torch.device("cpu"))
    assert all(int(only(torch.zeros(1, 0), logits).argmax()) == 2 for _ in range(20))


@pytest.mark.parametrize("name", ["prefix-0", None])
def test_a_row_that_has_ended_does_not_run_out_of_positions(name: str | None, tiny_gpt2: str, artifact: Make) -> None:
    """128 positions: a long prompt with a short answer beside a short prompt with a long answer."""
    pool = pefttools.AdapterPool(tiny_gpt2)
    pool.load("prefix-0", artifact(tiny_gpt2, "lm", "prefix", 0))
    long, short = "word " * 110, "a few words"
    names, lengths = [name, None], [5, 60]
    found = pool.generate_tokens([long, short], names, max_new_tokens=lengths)
    for row, text in enumerate((long, short)):
        alone_ids = pool.generate_tokens([text], [names[row]], max_new_tokens=lengths[row])[0]
        assert found[row, : len(alone_ids)].tolist() == alone_ids.tolist()
        assert (found[row, len(alone_ids) :] == pool.tokenizer.pad_token_id).all()
    with pytest.raises(ConfigError, match="are more than the 128"):
        pool.generate_tokens([long], [name], max_new_tokens=20)


def test_ends_of_the_caller_end_every_row(tiny_gpt2: str, artifact: Make) -> None:
    pool = pefttools.AdapterPool(tiny_gpt2)
    pool.load("lora", artifact(tiny_gpt2, "lm", "lora", 0))
    texts, names = ["a few words", "some other words"], ["lora", None]
    free = pool.generate_tokens(texts, names, max_new_tokens=12)
    end = int(free[1, 4])
    first = free[1].tolist().index(end)
    for given in (end, [end], torch.tensor([end])):
        found = pool.generate_tokens(texts, names, max_new_tokens=12, eos_token_id=given)
        assert found[1, : first + 1].tolist() == free[1, : first + 1].tolist()
        assert (found[1, first + 1 :] == pool.tokenizer.pad_token_id).all()
        assert end not in found[0].tolist()[:-1] or (found[0][found[0].tolist().index(end) + 1 :] == 0).all()
