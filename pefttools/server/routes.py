"""What can be asked over HTTP."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from pefttools.errors import ConfigError, PeftToolsError
from pefttools.server.generating import Generation, sampling
from pefttools.server.keys import Caller
from pefttools.server.schemas import (
    AdapterRequest,
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    PairInput,
)
from pefttools.server.service import Service
from pefttools.store import check_name

#: new tokens where a request does not say how many, as OpenAI's completions have it
_DEFAULT_TOKENS = 16

router = APIRouter()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request) -> Caller:
    caller = _service(request).keys.caller(request.headers.get("authorization"))
    request.state.caller = caller.id  # for the access log
    return caller


ServiceHere = Annotated[Service, Depends(_service)]
CallerHere = Annotated[Caller, Depends(_caller)]


@router.get("/health")
async def health(service: ServiceHere) -> dict[str, Any]:
    """Whether the server is up. Asks nothing that could keep it waiting."""
    return {"status": "ok", "base": service.pool.served.base.id}


@router.get("/ready")
async def ready(service: ServiceHere, response: Response) -> dict[str, Any]:
    """Whether requests are answered: 503 where the batches have stopped, or the server is stopping."""
    why = service.not_ready()
    if why is not None:
        response.status_code = 503
        return {"status": why}
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request, service: ServiceHere) -> Response:
    """Figures for Prometheus."""
    service.allow_metrics(request.headers.get("authorization"))
    return Response(await service.beside.files(service.metrics.text), media_type="text/plain; version=0.0.4")


@router.get("/v1/models")
async def models(service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """The base and the adapters that the caller may use."""
    names = await service.beside.files(service.names, caller)
    return {"object": "list", "data": [_model(name) for name in (service.settings.name, *names)]}


@router.get("/v1/models/{name}")
async def model(name: str, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """One of them."""
    chosen = await service.choose(name, caller)
    return _model(chosen.name or name)


@router.post("/v1/classify")
async def classify(request: ClassifyRequest, http: Request, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """Label texts, or pairs of texts."""
    inputs = request.input if isinstance(request.input, list) else [request.input]
    _limit(len(inputs), service)
    if any(isinstance(one, PairInput) for one in inputs) and any(isinstance(one, str) for one in inputs):
        raise ConfigError("texts and pairs of texts can't be mixed in one request")
    rows = [{"text": one} if isinstance(one, str) else {"text": one.text, "pair": one.pair} for one in inputs]
    chosen = await service.choose(request.model, caller)
    data = []
    for index, one in enumerate(await service.classify(chosen, rows, request.on_error, http.is_disconnected)):
        if one.error is not None:
            data.append({"index": index, "error": {"message": one.error}})
            continue
        label = max(one.scores, key=one.scores.__getitem__)
        cut = {} if one.cut_from is None else {"cut_from": one.cut_from}
        data.append({"index": index, "label": label, "score": one.scores[label], "scores": one.scores, **cut})
    return {"object": "list", "model": chosen.name, "data": data}


@router.post("/v1/chat/completions")
async def chat(request: ChatRequest, http: Request, service: ServiceHere, caller: CallerHere) -> Any:
    """Answer a chat."""
    chosen = await service.choose(request.model, caller)
    messages = [
        {"role": "system" if one.role == "developer" else one.role, "content": one.text()} for one in request.messages
    ]
    prompt = await service.prompt(chosen, messages)
    tokens = request.max_completion_tokens or request.max_tokens or min(256, service.settings.max_tokens)
    generation = _generation(request, prompt, tokens, service, service.ends(chosen, chat=True))
    head = _head("chat.completion", request.model)
    service.check_generation(chosen, prompt, tokens)
    if request.stream:
        usage = request.stream_options is not None and request.stream_options.include_usage
        pieces = service.stream(chosen, generation)
        return _stream(_chat_chunks(pieces, generation, {**head, "object": "chat.completion.chunk"}, usage))
    await service.generate(chosen, [generation], http.is_disconnected)
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": generation.reason}
    return {**head, "choices": [choice], "usage": _usage([generation])}


@router.post("/v1/completions")
async def completions(request: CompletionRequest, http: Request, service: ServiceHere, caller: CallerHere) -> Any:
    """Go on with texts."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    _limit(len(prompts), service)
    chosen = await service.choose(request.model, caller)
    tokens = request.max_tokens or _DEFAULT_TOKENS
    ends = service.ends(chosen, chat=False)
    ids = await service.ids(prompts)
    generations = [_generation(request, one, tokens, service, ends) for one in ids]
    for one in generations:
        service.check_generation(chosen, one.prompt, tokens)
    head = _head("text_completion", request.model)
    if request.stream:
        if len(generations) != 1:
            raise ConfigError("a stream answers one prompt")
        usage = request.stream_options is not None and request.stream_options.include_usage
        return _stream(_text_chunks(service.stream(chosen, generations[0]), generations[0], head, usage))
    await service.generate(chosen, generations, http.is_disconnected)
    choices = [
        {"index": index, "text": one.text, "logprobs": None, "finish_reason": one.reason}
        for index, one in enumerate(generations)
    ]
    return {**head, "choices": choices, "usage": _usage(generations)}


@router.post("/v1/adapters/{name}")
async def load(
    name: str, service: ServiceHere, caller: CallerHere, request: AdapterRequest | None = None
) -> dict[str, Any]:
    """Make a version of an adapter resident; where a tag is given, point it there once the version stands ready."""
    check_name(name)
    service.allow(caller, name, manage=True)
    asked = request or AdapterRequest()
    full = await service.beside.files(service.load, f"{name}@{asked.version}" if asked.version else name, caller)
    if asked.tag is not None:
        await service.beside.files(service.tag, full, asked.tag, caller)
    return {"model": full, "tag": asked.tag}


@router.delete("/v1/adapters/{name}")
async def unload(name: str, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """Let the weights of an adapter go; the store keeps it, and the next request brings it back."""
    check_name(name)
    service.allow(caller, name, manage=True)
    return {"unloaded": await service.beside.files(service.unload, name, caller)}


def _limit(inputs: int, service: Service) -> None:
    if not 0 < inputs <= service.settings.max_inputs:
        raise ConfigError(f"between 1 and {service.settings.max_inputs} texts are taken in one request, not {inputs}")


def _generation(
    request: ChatRequest | CompletionRequest, prompt: list[int], tokens: int, service: Service, ends: frozenset[int]
) -> Generation:
    if tokens > service.settings.max_tokens:
        raise ConfigError(f"at most {service.settings.max_tokens} new tokens may be asked for, not {tokens}")
    drawn = sampling(request.temperature, request.top_p, request.top_k, request.seed)
    return Generation(prompt, tokens, ends, request.stops(), drawn)


def _head(kind: str, model: str) -> dict[str, Any]:
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pefttools"}


def _usage(generations: list[Generation]) -> dict[str, int]:
    prompt = sum(len(one.prompt) for one in generations)
    completion = sum(len(one.tokens) for one in generations)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _chat_chunks(
    pieces: AsyncIterator[str], generation: Generation, head: dict[str, Any], usage: bool
) -> AsyncIterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": ""})
    async for piece in pieces:
        yield chunk({"content": piece})
    yield chunk({}, generation.reason)
    if usage:
        yield {**head, "choices": [], "usage": _usage([generation])}


async def _text_chunks(
    pieces: AsyncIterator[str], generation: Generation, head: dict[str, Any], usage: bool
) -> AsyncIterator[dict[str, Any]]:
    def chunk(text: str, reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}

    async for piece in pieces:
        yield chunk(piece)
    yield chunk("", generation.reason)
    if usage:
        yield {**head, "choices": [], "usage": _usage([generation])}


def _stream(chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        from pefttools.server.app import told

        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        except PeftToolsError as error:
            # The status went out long ago: the error comes as the last event.
            yield f"data: {json.dumps(told(error)[1])}\n\n"
            return
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
