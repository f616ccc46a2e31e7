"""Settings of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["float32", "bfloat16", "float16"]


class Settings(BaseModel):
    """What a server serves, and its limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(description="folder, package: reference or hub id of the base model")
    store: str = Field(description="folder or fsspec URL of the adapters' store")
    variant: str = Field("float32", description="number format of the base's weights")
    dtype: Dtype | None = Field(
        None, description="number format to compute in, if not the variant's own; bfloat16 is fast on most cards"
    )
    name: str = Field("base", description="name that requests use for the base model without an adapter")
    max_resident: int = Field(64, ge=1, description="maximum number of adapters in memory")
    max_bytes: int | None = Field(None, ge=1, description="maximum bytes of adapter weights in memory; none: no limit")
    max_batch: int = Field(32, ge=1, description="maximum number of rows that run together")
    max_adapters: int | None = Field(
        None, ge=1, description="maximum number of different adapters in a batch; none: as many as fit in memory"
    )
    max_wait_ms: float = Field(
        5.0, ge=0, description="longest time that a row waits for others to run with, in milliseconds"
    )
    max_run_ms: float = Field(
        500.0,
        ge=0,
        description="milliseconds after which unfinished answers give way to waiting rows, and continue later",
    )
    max_queue: int = Field(
        1024, ge=1, description="maximum number of waiting rows per caller; more are refused with 429"
    )
    max_connections: int = Field(2048, ge=1, description="maximum number of connections; more are refused with 503")
    max_body_bytes: int = Field(
        1_000_000, ge=1, description="maximum size of a request; larger ones are refused with 413"
    )
    max_file_bytes: int = Field(
        25_000_000, ge=1, description="the same for a base that reads images or audio, which are sent with the request"
    )
    max_inputs: int = Field(256, ge=1, description="maximum number of texts in one request")
    max_tokens: int = Field(1024, ge=1, description="maximum number of new tokens that a request may ask for")
    timeout_s: float = Field(60.0, gt=0, description="longest time that a request may take, in seconds")
    body_s: float = Field(
        10.0, gt=0, description="longest time that a request's head, and its body, may take to arrive, in seconds"
    )
    stop_s: float = Field(25.0, gt=0, description="longest time that requests are finished after SIGTERM, in seconds")
    stall_s: float = Field(30.0, gt=0, description="seconds without progress of a batch after which /ready returns 503")
    metrics: Literal["open", "managers", "off"] = Field("open", description="who may read /metrics")
    docs: bool = Field(True, description="serve /docs, /redoc and /openapi.json")
    signed_by: tuple[Path, ...] = Field((), description="public key; each adapter must be signed by one of those given")
    knowledge: Path | None = Field(
        None, description="folder of an index of passages, for adapters that were trained with them"
    )
    keys: Path | None = Field(None, description="file of API keys; none: no authentication")
