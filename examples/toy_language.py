"""A toy language pair, and small T5 and BART models that translate it: the bases of examples/translation.yaml.

    python examples/toy_language.py            # the data, and both models; ten minutes on two cores
    python examples/toy_language.py t5         # one of them

No encoder-decoder model for text is available as a package. Sentences of a small English grammar about customers and
orders are translated by rules into a made-up language: the verb comes last, adjectives follow their nouns, plural,
tense and negation are endings. The models learn that. Methods are then compared on a dialect of it that no model has
seen: its adjectives come first, its plural and its past have other endings, negation is a separate word, and forty
nouns and verbs are new in both languages. No sentence of the dialect's test set is in the training data.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pefttools
from pefttools.progress import default_reporter

DATA = Path(__file__).parent / "data"


def _words(text: str) -> list[str]:
    return text.split()


_NOUNS = _words(
    "customer order invoice parcel refund account card message manager office product price contract agent driver "
    "letter payment branch clerk shop package voucher receipt address number bank phone store return gift label "
    "box ticket bill credit loan rate fee plan line visitor form code key book desk team report offer sale"
)
_VERBS = _words(
    "cancel send check pay open close lose find change return order accept refuse block need want answer call "
    "print sign deliver count repair sell buy move keep test read write"
)
_ADJECTIVES = _words("new old red late early small large cheap lost open wrong good empty heavy quick")
_NEW_NOUNS = _words(
    "battery charger cable screen router modem camera printer sensor engine tyre mirror window door seat helmet "
    "pedal brake lamp wheel"
)
_NEW_VERBS = _words(
    "charge mount clean replace adjust install remove update reset lock unlock rent lend swap scan park steer "
    "brake polish wash"
)


@dataclass(frozen=True)
class Grammar:
    """How a language is derived from English.

    Attributes:
        nouns: nouns that occur in it.
        verbs: verbs that occur in it.
        plural: plural ending.
        past: past tense ending.
        adjectives_first: whether adjectives come before their nouns.
        negation: ending of a negated verb; with a leading space, a separate word.
    """

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    plural: str
    past: str
    adjectives_first: bool
    negation: str


STANDARD = Grammar(tuple(_NOUNS), tuple(_VERBS), "un", "ta", False, "mek")
DIALECT = Grammar((*_NOUNS[:20], *_NEW_NOUNS), (*_VERBS[:12], *_NEW_VERBS), "iri", "so", True, " nai")


def words() -> dict[str, str]:
    """The made-up word of each English one."""
    draw = random.Random(7)
    syllables = [
        one + vowel
        for one in ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"]
        for vowel in "aeiou"
    ]
    found: dict[str, str] = {}
    for word in (*_NOUNS, *_NEW_NOUNS, *_VERBS, *_NEW_VERBS, *_ADJECTIVES):
        while (made := "".join(draw.sample(syllables, 2 + draw.randrange(2)))) in found.values():
            pass
        found.setdefault(word, made)
    return found


def sentence(grammar: Grammar, dictionary: dict[str, str], draw: random.Random) -> dict[str, str]:
    """One sentence in both languages."""
    english, made = [], []
    for place in range(2):
        noun = draw.choice(grammar.nouns)
        several = draw.random() < 0.4
        adjectives = draw.sample(_ADJECTIVES, draw.choice((0, 1, 1, 2)))
        name = dictionary[noun] + (grammar.plural if several else "")
        described = [dictionary[one] for one in adjectives]
        made += [*described, name] if grammar.adjectives_first else [name, *described]
        english.append(" ".join(["the", *adjectives, noun + "s" * several]))
        if place == 0:
            verb = draw.choice(grammar.verbs)
            past, negated = draw.random() < 0.5, draw.random() < 0.3
            do = ("did" if past else "do" if several else "does") + " not"
            english.append(
                f"{do} {verb}"
                if negated
                else f"will {verb}"
                if not past
                else f"{'have' if several else 'has'} just {verb}ed"
            )
            ending = (grammar.past if past else "") + (grammar.negation if negated else "")
            last = dictionary[verb] + ending
    return {"text": " ".join(english), "target": " ".join([*made, last])}


def sentences(grammar: Grammar, seed: int, number: int, without: Collection[str] = ()) -> list[dict[str, str]]:
    """Distinct sentences, excluding given ones."""
    draw, dictionary = random.Random(seed), words()
    found: dict[str, dict[str, str]] = {}
    while len(found) < number:
        one = sentence(grammar, dictionary, draw)
        if one["text"] not in without:
            found[one["text"]] = one
    return list(found.values())


def write(name: str, rows: list[dict[str, str]]) -> None:
    """One JSON object per row."""
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def tokenizer(folder: Path, rows: list[dict[str, str]]) -> None:
    """A tokenizer of 600 pieces for both languages; it covers dialect words too, which use the same letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["<pad>", "</s>", "<unk>"])
    made.train_from_iterator((row[role] for row in rows for role in ("text", "target")), trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    from tokenizers import decoders

    made.decoder = decoders.WordPiece()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    wrapped.save_pretrained(folder)


def untrained(kind: str, folder: Path) -> None:
    """A model with random weights."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "vocab_size": 600}
    if kind == "t5":
        config = T5Config(d_model=128, d_kv=32, num_heads=4, d_ff=512, num_layers=3, dropout_rate=0.05, **ends)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    else:
        sides = {
            f"{side}_{name}": size
            for side in ("encoder", "decoder")
            for name, size in (("layers", 3), ("attention_heads", 4), ("ffn_dim", 512))
        }
        config = BartConfig(
            d_model=128, max_position_embeddings=128, dropout=0.05, bos_token_id=1, forced_eos_token_id=None,
            forced_bos_token_id=None, **sides, **ends,
        )  # fmt: skip
        BartForConditionalGeneration(config).save_pretrained(folder)


#: learning rates; a BART of this size learns nothing with a T5's
RATES = {"t5": 2e-3, "bart": 5e-4}


def train(kind: str, rows: list[dict[str, str]]) -> None:
    """Train one of the models on the standard language, and save it."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder, "start")
        untrained(kind, start)
        tokenizer(start, rows)
        stored = pefttools.train(
            {
                "base": str(start),
                "method": "full",
                "task": {"name": "seq2seq-lm", "max_length": 64, "max_target_length": 64, "generate": False},
                "data": {"train": str(DATA / "toy-standard.jsonl"), "validation": 0.03},
                "training": {"epochs": 12, "batch_size": 64, "learning_rate": RATES[kind], "eval_batch_size": 64},
                "selection": {"metric": "loss"},
                "output": str(Path(folder, "trained")),
            },
            reporter=default_reporter(),
        )
        assert stored is not None
        found = stored.validation.metrics
        print(f"{kind}: {found['token_accuracy']:.1%} of the tokens of unseen sentences, under teacher forcing")
        stored.model.transformer.save_pretrained(DATA / f"toy-{kind}")
        stored.model.tokenizer.save_pretrained(DATA / f"toy-{kind}")


def main() -> None:
    """Write the data and train both models."""
    standard = sentences(STANDARD, 0, 12_000)
    write("toy-standard", standard)
    test = sentences(DIALECT, 1, 500)
    write("toy-dialect-test", test)
    train_rows = sentences(DIALECT, 2, 1_500, {row["text"] for row in test})
    write("toy-dialect-train", train_rows)
    for kind in sys.argv[1:] or RATES:
        train(kind, standard)


if __name__ == "__main__":
    main()
