"""``pefttools evaluate | predict | inspect | ...``: what can be done with saved artifacts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import typer

from pefttools.cli.completing import names_of

_INPUT = "A text, or the path of an image or audio file; may be repeated. Use - to read one per line from stdin."
ARTIFACT = typer.Argument(help="Folder of the artifact.", metavar="ARTIFACT")
BASE = typer.Option(None, "--base", help="Path of the base model, if it has moved.")
VARIANT = typer.Option(
    None,
    "--variant",
    help="Number format of the base, if not the one trained on.",
    autocompletion=names_of("pefttools.variants"),
)
COLUMN = typer.Option([], "--column", metavar="ROLE=NAME", help="Column for a role, e.g. text=sentence.")
DELIMITER = typer.Option(None, "--delimiter", help="Delimiter of a csv file; detected by default.")
KNOWLEDGE = typer.Option(None, "--knowledge", metavar="FOLDER", help="Index of passages to look up; see `index`.")
OVERWRITE = typer.Option(False, "--overwrite", help="Overwrite existing output.")
BATCH = typer.Option(64, "--batch-size", min=1, help="Batch size.")


def evaluate(
    artifact: Path = ARTIFACT,
    data: str = typer.Option(..., "--data", help="Labelled rows: file, package: reference or hub data set."),
    base: str | None = BASE,
    variant: str | None = VARIANT,
    column: list[str] = COLUMN,
    delimiter: str | None = DELIMITER,
    batch_size: int = BATCH,
    knowledge: Path | None = KNOWLEDGE,
    typos: float | None = typer.Option(
        None, "--typos", metavar="SHARE", help="Put a typo into this share of the words of four letters or more."
    ),
    attack: str | None = typer.Option(
        None, "--attack", help="Move each row's input against its label: fgm, pgd, or '{name: pgd, epsilon: 0.2}'."
    ),
    seed: int | None = typer.Option(None, "--seed", help="Which words get which typos.  [default: 0]"),
    predictions: Path | None = typer.Option(None, "--predictions", help="Write one JSON object per row here."),
    per_class: bool = typer.Option(False, "--per-class", help="Also show scores per class and the confusion matrix."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure a saved artifact on labelled rows.

    Examples:
        pefttools evaluate artifacts/intents --data test.csv
        pefttools evaluate artifacts/intents --data test.csv --per-class --predictions out.jsonl
        pefttools evaluate artifacts/intents --data test.csv --typos 0.1
        pefttools evaluate artifacts/intents --data test.csv --attack "{name: pgd, epsilon: 0.2, steps: 5}"
    """
    from pefttools import api
    from pefttools.cli.class_tables import print_classes
    from pefttools.errors import ConfigError
    from pefttools.progress import default_reporter
    from pefttools.recipe import read_choice

    chosen = None if attack is None else read_choice(attack, "--attack")
    model = api.load(artifact, base=base, variant=variant)
    found = api.evaluate(
        model, data, columns=_columns(column), delimiter=delimiter, batch_size=batch_size, knowledge=knowledge,
        typos=typos, attack=chosen, seed=seed, reporter=default_reporter(),
    )  # fmt: skip
    if predictions is not None:
        _write_lines(predictions, found.entries())
    classes = model.spec.task.class_report(found, model.labels) if per_class else None
    if per_class and classes is None:
        raise ConfigError(f"--per-class: the task {model.spec.task.name!r} has no classes")
    if as_json:
        print(json.dumps({**found.metrics, **(classes.as_dict() if classes else {})}, indent=2, ensure_ascii=False))
        return
    for name, value in found.metrics.items():
        print(f"{name:20} {value:.4f}")
    if classes is not None:
        print_classes(classes)


def predict(
    artifact: Path = ARTIFACT,
    text: list[str] = typer.Option([], "--text", "--input", help=_INPUT),
    data: str | None = typer.Option(None, "--data", help="Rows: file, package: reference or hub data set."),
    output: Path | None = typer.Option(None, "--output", help="Write the lines here instead of printing them."),
    id_column: str | None = typer.Option(
        None, "--id", metavar="COLUMN", help="Column of --data to pass through as id."
    ),
    all_scores: bool = typer.Option(False, "--scores", help="Include the score of every label."),
    on_error: Literal["stop", "skip"] = typer.Option(
        "stop", help="What to do with an invalid row: stop, or skip it (its line has the error)."
    ),
    base: str | None = BASE,
    variant: str | None = VARIANT,
    column: list[str] = COLUMN,
    delimiter: str | None = DELIMITER,
    batch_size: int = BATCH,
    knowledge: Path | None = KNOWLEDGE,
) -> None:
    """Print one JSON object per text or row.

    Examples:
        pefttools predict artifacts/intents --text "where is my card"
        pefttools predict artifacts/intents --data rows.csv --id key --scores --output out.jsonl
    """
    from pefttools import api
    from pefttools.errors import ConfigError
    from pefttools.progress import default_reporter

    if bool(text) == bool(data):
        raise ConfigError("give either --text (once or more) or --data")
    if id_column is not None and data is None:
        raise ConfigError("--id names a column of --data")
    texts = None if data else [line.rstrip("\r\n") for line in sys.stdin] if text == ["-"] else text
    model = api.load(artifact, base=base, variant=variant)
    found = api.predict(
        model, texts, data=data, columns=_columns(column), id_column=id_column, delimiter=delimiter,
        batch_size=batch_size, on_error=on_error, all_scores=all_scores, knowledge=knowledge,
        reporter=default_reporter(),
    )  # fmt: skip
    if output is not None:
        _write_lines(output, found)
        return
    for entry in found:
        print(_line(entry))


def inspect(
    artifact: Path = ARTIFACT,
    as_json: bool = typer.Option(False, "--json", help="Print the manifest as JSON."),
    norms: bool = typer.Option(False, "--norms", help="Also show the norm of its change at each site; loads the base."),
) -> None:
    """Show what an artifact is and which base it belongs to.

    Examples:
        pefttools inspect artifacts/intents
        pefttools inspect artifacts/intents --json
    """
    from pefttools.artifact.effect import warn_without_effect
    from pefttools.artifact.manifest import read_manifest

    manifest = read_manifest(artifact)
    warn_without_effect(artifact, manifest)
    if as_json:
        print(json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    total = sum(entry.size for entry in manifest.files.values())
    weights = sum(entry.size for name, entry in manifest.files.items() if name.endswith(".safetensors"))
    counts = manifest.parameters
    rows = [
        ("method", f"{manifest.method.name} {json.dumps(manifest.method.config)}"),
        ("provided by", f"{manifest.method.distribution} {manifest.method.version}"),
        ("task", f"{manifest.task.name}, head {manifest.task.head}, {len(manifest.task.labels)} labels"),
        ("base", f"{manifest.base.id} ({manifest.base.model_type})"),
        ("base weights", manifest.base.weights),
        ("base structure", manifest.base.structure),
        ("imported", manifest.imported.origin()) if manifest.imported else
        ("trained on", f"{manifest.base.variant}, computed in {manifest.precision}"),
        ("parameters", f"{counts['trainable']:,} of {counts['total']:,} trained, {counts['head']:,} in the head"),
        ("size", f"{total:,} bytes, {weights:,} of weights as {manifest.storage}: "
                 f"{weights / manifest.base.size:.2%} of the base"),
        ("created", manifest.created),
        ("packages", ", ".join(f"{name} {version}" for name, version in manifest.packages.items())),
    ]  # fmt: skip
    rows += [
        (split, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        for split, metrics in manifest.metrics.items()
    ]
    rows += [(name, f"{entry.size:,} bytes, sha256 {entry.sha256}") for name, entry in manifest.files.items()]
    _table(str(artifact), rows)
    if norms:
        from pefttools import api

        found = api.norms(artifact) or {"none": {}}
        _table(
            "norms by site",
            [(site, ", ".join(f"{kind} {norm:.4g}" for kind, norm in own.items())) for site, own in found.items()],
        )


def verify(
    artifact: Path = ARTIFACT,
    base: str | None = BASE,
    files_only: bool = typer.Option(False, "--files-only", help="Don't look for the base."),
    rehash: bool = typer.Option(
        False, "--rehash", help="Hash the base's weights again instead of trusting cached digests."
    ),
    signed_by: list[Path] = typer.Option([], "--signed-by", help="Public key; the artifact must be signed by one."),
) -> None:
    """Check every file of an artifact, and that its base is the one it was trained on.

    Examples:
        pefttools verify artifacts/intents
        pefttools verify artifacts/intents --signed-by key.pem.pub
    """
    from pefttools.artifact.load import find_base
    from pefttools.artifact.manifest import unlisted
    from pefttools.artifact.reading import hold
    from pefttools.artifact.signing import trusted

    with hold(artifact, trusted(signed_by)) as held:
        manifest = held.manifest
    print(f"{len(manifest.files) + 1} files are unchanged" + (", and signed by a trusted key" if signed_by else ""))
    if others := unlisted(artifact, manifest):
        print(f"not listed in the manifest, and never read: {', '.join(others)}")
    if not files_only:
        found = find_base(manifest, base, rehash=rehash)
        how = "was trained on" if manifest.imported is None else "was imported for; nothing in its source verifies it"
        print(f"the base {found.id} is the one that the adapter {how} (weights {found.weights[:12]})")


def merge(
    artifact: Path = ARTIFACT,
    output: Path = typer.Option(..., "--output", help="Folder of the merged model."),
    format: str = typer.Option(
        "transformers", "--format", help="transformers, sentence-transformers, onnx, or onnx-int8."
    ),
    base: str | None = BASE,
    overwrite: bool = OVERWRITE,
) -> None:
    """Merge an adapter into its base: writes a plain model for other libraries and checks that its outputs agree.

    Examples:
        pefttools merge artifacts/intents --output merged
    """
    from pefttools import api

    print(api.merge(artifact, output, base=base, format=format, overwrite=overwrite))


def export(
    artifact: Path = ARTIFACT,
    output: Path = typer.Option(..., "--output", help="Folder to write."),
    format: str = typer.Option("peft-lora", "--format", help="peft-lora: loads in PEFT, vLLM and others."),
    rank: int | None = typer.Option(
        None, "--rank", min=1, help="Maximum rank; required if the adapter is not itself a low-rank update."
    ),
    base: str | None = BASE,
    overwrite: bool = OVERWRITE,
) -> None:
    """Write an adapter in a format that other servers load; prints the relative error.

    Examples:
        pefttools export artifacts/intents --output exported
        pefttools export artifacts/intents --rank 16 --output exported
    """
    from pefttools import api

    error = api.export(artifact, output, format=format, rank=rank, base=base, overwrite=overwrite)
    _say_error(output, error)


def compose(
    artifacts: list[Path] = typer.Argument(
        help="Two or more artifacts of the same base and task.", metavar="ARTIFACT..."
    ),
    weights: str = typer.Option(..., "--weights", help="One weight per artifact, e.g. 0.6,0.4."),
    output: Path = typer.Option(..., "--output", help="Folder of the new artifact."),
    rule: str = typer.Option("sum", "--rule", help="sum, ties, dare-linear, dare-ties or magnitude-prune."),
    density: float | None = typer.Option(None, "--density", help="Share of each change that a rule keeps."),
    seed: int = typer.Option(0, "--seed", help="Seed for what is dropped at random."),
    rank: int | None = typer.Option(None, "--rank", min=1, help="Maximum rank; without it the sum is exact."),
    base: str | None = BASE,
    overwrite: bool = OVERWRITE,
) -> None:
    """Save the weighted sum of adapters as a new one, or combine them by another rule.

    Examples:
        pefttools compose artifacts/a artifacts/b --weights 0.6,0.4 --output artifacts/both
        pefttools compose artifacts/a artifacts/b --weights 1,1 --rule ties --density 0.2 --rank 16 --output both
    """
    from pefttools import api
    from pefttools.errors import ConfigError

    try:
        numbers = [float(one) for one in weights.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights {weights!r}: give comma-separated numbers, e.g. 0.6,0.4") from error
    lost = api.compose(
        artifacts, numbers, output, rule=rule, density=density, seed=seed, rank=rank, base=base, overwrite=overwrite
    )
    _say_error(output, lost)


def _say_error(output: Path, error: float) -> None:
    if error == 0:
        print(f"{output}: exact")
        return
    print(f"{output}: relative error {error:.2%} (Frobenius norm of what is left out, relative to the whole change)")
    if error > 0.1:
        print("This error is large: the result will not behave like the adapter. A higher --rank lowers it.")


def _columns(pairs: list[str]) -> dict[str, str]:
    from pefttools.errors import ConfigError

    found = {}
    for pair in pairs:
        role, sign, name = pair.partition("=")
        if not sign or not role or not name:
            raise ConfigError(f"--column {pair!r}: write it as role=name")
        found[role] = name
    return found


def _line(entry: dict[str, Any]) -> str:
    """One line of JSON; ids of other types (dates, for example) become strings, and lone surrogates escapes."""
    from pefttools.data.arrow_rows import is_whole

    line = json.dumps(entry, ensure_ascii=False, default=str)
    return line if is_whole(line) else json.dumps(entry, default=str)


def _write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    from pefttools.files import write_text_atomic

    lines = map(_line, entries)
    write_text_atomic(path, "\n".join([*lines, ""]))


def _table(title: str, rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    Console().print(table)
