"""The card of a merged model: the code that reproduces its answers without pefttools."""

from __future__ import annotations

from pefttools.artifact.card import plain
from pefttools.artifact.manifest import Manifest
from pefttools.artifact.onnx_model import FLOAT32, INT8
from pefttools.tuned import TunedModel

_POOLED = {
    "mean": 'mask = batch["attention_mask"].unsqueeze(-1)\npooled = (states * mask).sum(1) / mask.sum(1)',
    "cls": "pooled = states[:, 0]",
    "last": 'last = batch["attention_mask"].sum(1) - 1\npooled = states[torch.arange(len(states)), last]',
}

_POOLING_HEAD = """\
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER).eval()
head = load_file(f"{{FOLDER}}/head.safetensors")
batch = tokenizer(TEXTS, padding=True, padding_side="right", truncation=True, max_length={length}, return_tensors="pt")
with torch.no_grad():
    states = model(**batch).last_hidden_state
{pooling}
scores = (pooled @ head["linear.weight"].T + head["linear.bias"]).softmax(-1)
print([(model.config.id2label[int(row.argmax())], float(row.max())) for row in scores])"""

_ONNX = """\
import numpy as np
import onnxruntime
from transformers import AutoConfig, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
session = onnxruntime.InferenceSession(f"{{FOLDER}}/model.onnx")
batch = tokenizer(TEXTS, padding=True, padding_side="right", truncation=True, max_length={length}, return_tensors="np")
(logits,) = session.run(None, {{one.name: batch[one.name] for one in session.get_inputs()}})
"""

_ONNX_LABELS = """\
scores = np.exp(logits - logits.max(-1, keepdims=True))
scores /= scores.sum(-1, keepdims=True)
labels = AutoConfig.from_pretrained(FOLDER).id2label
print([(labels[int(row.argmax())], float(row.max())) for row in scores])"""

_ONNX_EMBEDDING = """\
print(logits / np.linalg.norm(logits, axis=-1, keepdims=True))"""

_SENTENCE_TRANSFORMER = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(FOLDER)
labels = model[0].auto_model.config.id2label
scores = model.encode(TEXTS)
print([(labels[int(row.argmax())], float(row.max())) for row in scores])"""

_EMBEDDING = """\
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER).eval()
batch = tokenizer(TEXTS, padding=True, padding_side="right", truncation=True, max_length={length}, return_tensors="pt")
with torch.no_grad():
    states = model(**batch).last_hidden_state
{pooling}
print(torch.nn.functional.normalize(pooled, dim=-1))"""

_SENTENCE_EMBEDDING = """\
from sentence_transformers import SentenceTransformer

print(SentenceTransformer(FOLDER).encode(TEXTS))"""

_OWN_HEAD = """\
from transformers import pipeline

classify = pipeline("text-classification", FOLDER)
print(classify(TEXTS, truncation=True, max_length={length}))"""

_TAGS = """\
from transformers import AutoModelForTokenClassification, AutoTokenizer, TokenClassificationPipeline

model = AutoModelForTokenClassification.from_pretrained(FOLDER)
tag = TokenClassificationPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(FOLDER))
print(tag(TEXTS))"""

_LANGUAGE_MODEL = """\
from transformers import pipeline

generate = pipeline("text-generation", FOLDER)
prompts = [{prompt} for text in TEXTS]
answers = generate(prompts, max_new_tokens={new}, do_sample=False, return_full_text=False)
print([answer["generated_text"].strip() for (answer,) in answers])"""

_ENCODER_DECODER = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER).eval()
texts = [{prefix!r} + text for text in TEXTS]
batch = tokenizer(texts, padding=True, padding_side="right", truncation=True, max_length={length}, return_tensors="pt")
tokens = model.generate(**batch, max_new_tokens={new}, num_beams={beams}, do_sample=False)
print([text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)])"""

_FILL_MASK = """\
from transformers import pipeline

fill = pipeline("fill-mask", FOLDER)
print([fill(text.replace("MASK", fill.tokenizer.mask_token)) for text in TEXTS])  # each with MASK in one place"""


def merged_card(manifest: Manifest, tuned: TunedModel, format: str) -> str:
    """Markdown of a merged model's ``README.md``."""
    base, method, task = manifest.base, manifest.method, manifest.task
    lines = [
        f"# {plain(base.id)}, tuned by {plain(method.name)} for {plain(task.name)}",
        "",
        *_said(format),
        "",
        "| | |",
        "|---|---|",
        f"| base weights | sha256 `{base.weights}` |",
        f"| head | {plain(_head(tuned))} |",
    ]
    if (passages := manifest.passages()) is not None:
        lines.append(f"| passages | the adapter was {plain(passages)}; this model looks nothing up |")
    if task.labels:
        lines.append(f"| labels | {', '.join(plain(label) for label in task.labels)} |")
    lines += ["", "```python", f'FOLDER = "path/to/this/folder"\n{code(tuned, format)}', "```", ""]
    return "\n".join(lines)


def _said(format: str) -> list[str]:
    if format == INT8:
        return [
            "An ONNX graph with weights in 8 bits: the adapter is merged into the weights. Written by pefttools. Its",
            "answers differ a little from the adapter's: measure it on rows of your own.",
        ]
    what = "An ONNX graph" if format == FLOAT32 else "A plain model"
    return [
        f"{what} in float32: the adapter is merged into the weights. Written by pefttools, which compared its",
        "answers with the adapter's.",
    ]


def code(tuned: TunedModel, format: str) -> str:
    """Lines of Python that print what the model gives for ``TEXTS``."""
    options = tuned.spec.task.options
    length = options.max_length
    if tuned.spec.task.encoder_decoder:
        return _ENCODER_DECODER.format(
            prefix=options.prefix, length=length, new=options.max_new_tokens, beams=options.beams
        )
    if tuned.spec.task.self_supervised and not tuned.spec.task.generates:
        return _FILL_MASK
    if format in (FLOAT32, INT8):
        return _ONNX.format(length=length) + (_ONNX_EMBEDDING if tuned.spec.task.embeds else _ONNX_LABELS)
    if tuned.spec.task.embeds:
        if format == "sentence-transformers":
            return _SENTENCE_EMBEDDING
        return _EMBEDDING.format(length=length, pooling=_POOLED[tuned.spec.head_kind])
    if not tuned.labels:
        return _LANGUAGE_MODEL.format(prompt=_prompt(tuned), new=options.max_new_tokens)
    if tuned.spec.task.per_token:
        return _TAGS
    if tuned.head is None:
        return _OWN_HEAD.format(length=length)
    if format == "sentence-transformers":
        return _SENTENCE_TRANSFORMER
    return _POOLING_HEAD.format(length=length, pooling=_POOLED[tuned.spec.head_kind])


def _prompt(tuned: TunedModel) -> str:
    """An expression that formats ``text`` like the prompts in training."""
    options = tuned.spec.task.options
    if options.template == "none" or tuned.tokenizer.chat_template is None:
        system = "" if options.system is None or options.plain == "joined" else f"{options.system!r} + '\\n' + "
        return f"{system}text" + ("" if options.plain == "joined" else r" + '\n'")
    system = "" if options.system is None else f'{{"role": "system", "content": {options.system!r}}}, '
    return f'[{system}{{"role": "user", "content": text}}]'


def _head(tuned: TunedModel) -> str:
    if tuned.head is None:
        return "the model's own"
    if tuned.spec.task.embeds:
        return f"{tuned.spec.head_kind} pooling of the last hidden states, scaled to length 1"
    return f"{tuned.spec.head_kind} pooling of the last hidden states, one linear layer (head.safetensors)"
