"""The HTTP routes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from fastapi.responses import PlainTextResponse

from pefttools.errors import ConfigError
from pefttools.knowledge import cited
from pefttools.server.embedding import EmbeddingRequest, embed, written
from pefttools.server.generating import Generation, sampling
from pefttools.server.keys import Caller
from pefttools.server.responses import (
    ChatCompletion,
    Classification,
    Completion,
    Embeddings,
    Health,
    Loaded,
    ModelList,
    Predictions,
    Ready,
    Transcript,
    Unloaded,
    documented,
    errors,
)
from pefttools.server.responses import Model as ModelAnswer
from pefttools.server.schemas import (
    AdapterRequest,
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    PredictRequest,
)
from pefttools.server.service import Service
from pefttools.server.streams import beginning, chat_chunks, stream, text_chunks, tokens_used
from pefttools.server.transcribing import TranscriptionRequest, events, transcription, usage
from pefttools.store import check_name
from pefttools.tasks.task import Example

#: new tokens if a request does not say how many, as in OpenAI's completions
_DEFAULT_TOKENS = 16
#: the same for chats
_CHAT_TOKENS = 256

#: for whoever monitors the server, without a key
watched = APIRouter()
#: metrics of all callers
figures = APIRouter()
#: routes for callers
router = APIRouter()

Name = Annotated[str, Path(max_length=300)]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request) -> Caller:
    caller = _service(request).keys.caller(request.headers.get("authorization"))
    request.state.caller = caller.id  # for the access log
    return caller


ServiceHere = Annotated[Service, Depends(_service)]
CallerHere = Annotated[Caller, Depends(_caller)]


@watched.get("/health", responses={200: {"model": Health}})
async def health(service: ServiceHere) -> dict[str, Any]:
    """Whether the server is up. Depends on nothing that could keep it waiting."""
    return {"status": "ok", "base": service.pool.served.base.id}


@watched.get("/ready", responses={200: {"model": Ready}, 503: {"model": Ready, "description": "not now"}})
async def ready(service: ServiceHere, response: Response) -> dict[str, Any]:
    """Whether requests are answered: 503 if the batches have stalled, or the server is stopping."""
    why = service.not_ready()
    if why is not None:
        response.status_code = 503
        return {"status": why}
    return {"status": "ok"}


@figures.get("/metrics", response_class=PlainTextResponse, responses=errors(401, 403, 503, 504))
async def metrics(request: Request, service: ServiceHere) -> Response:
    """Metrics for Prometheus."""
    service.allow_metrics(request.headers.get("authorization"))
    return Response(await service.background.files(service.metrics.text), media_type="text/plain; version=0.0.4")


@router.get("/v1/models", responses=documented(ModelList))
async def models(service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """The base and the adapters that the caller may use."""
    names = await service.background.files(service.models.names, caller)
    return {"object": "list", "data": [_model(name) for name in (service.settings.name, *names)]}


@router.get("/v1/models/{name}", responses=documented(ModelAnswer))
async def model(name: Name, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """One model that the caller may use."""
    chosen = await service.models.choose(name, caller)
    return _model(chosen.name or name)


@router.post("/v1/classify", responses=documented(Classification))
async def classify(request: ClassifyRequest, http: Request, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """Label texts, or pairs of texts."""
    inputs = request.input if isinstance(request.input, list) else [request.input]
    rows = [{"text": one} if isinstance(one, str) else {"text": one.text, "pair": one.pair} for one in inputs]
    chosen = await service.models.choose(request.model, caller)
    _limit(len(inputs), service)
    data = []
    for index, one in enumerate(await service.classify(chosen, rows, request.on_error, http.is_disconnected)):
        if one.error is not None:
            data.append({"index": index, "error": {"message": one.error}})
            continue
        fields = one.as_dict(all_scores=True)
        data.append({"index": index, "label": fields.pop("prediction"), **fields})
    return {"object": "list", "model": chosen.name, "data": data}


@router.post("/v1/predict", responses=documented(Predictions))
async def predict(request: PredictRequest, http: Request, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """An adapter's predictions for texts, images or audio: labels, tags, numbers, spans, or generated texts."""
    chosen = await service.models.choose(request.model, caller)
    task = chosen.task()
    given = request.input if isinstance(request.input, list) else [request.input]
    main = "text" if task is None else task.main_role()
    rows = [{main: one} if isinstance(one, str) else one for one in given]
    _limit(len(rows), service)
    found = await service.predict(chosen, rows, request.on_error, http.is_disconnected)
    data = [{"index": index, **one.as_dict(all_scores=request.scores)} for index, one in enumerate(found)]
    return {"object": "list", "model": chosen.name, "data": data}


@router.post("/v1/embeddings", responses=documented(Embeddings))
async def embeddings(
    request: EmbeddingRequest, http: Request, service: ServiceHere, caller: CallerHere
) -> dict[str, Any]:
    """Embed texts."""
    inputs = request.inputs()
    chosen = await service.models.choose(request.model, caller)
    _limit(len(inputs), service)
    found = await embed(service, chosen, inputs, http.is_disconnected)
    tokens, data = 0, []
    for index, one in enumerate(found):
        assert one.example is not None and one.prediction is not None
        tokens += len(one.example["input_ids"])
        numbers = written(one.prediction.answer, request.encoding_format)
        data.append({"object": "embedding", "index": index, "embedding": numbers})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": request.model, "data": data, "usage": usage}


@router.post("/v1/chat/completions", responses=documented(ChatCompletion, stream=True))
async def chat(request: ChatRequest, http: Request, service: ServiceHere, caller: CallerHere) -> Any:
    """Answer a chat."""
    chosen = await service.models.choose(request.model, caller)
    service.suited.check_texts()
    service.suited.check_writing(chosen, chat=True)
    messages = [
        {"role": "system" if one.role == "developer" else one.role, "content": one.text()} for one in request.messages
    ]
    prompt, sources = await service.prompt(chosen, messages)
    tokens = request.max_completion_tokens or request.max_tokens or service.default_tokens(chosen, _CHAT_TOKENS)
    generation = _generation(request, prompt, tokens, service, service.ends(chosen, chat=True))
    head = beginning("chat.completion", request.model)
    service.suited.check_prompt(chosen, prompt, tokens)
    if request.stream:
        usage = request.stream_options is not None and request.stream_options.include_usage
        pieces = service.stream(chosen, [generation])
        return stream(chat_chunks(pieces, generation, {**head, "object": "chat.completion.chunk"}, usage, sources))
    await service.generate(chosen, [generation], http.is_disconnected)
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": generation.reason} | cited(sources)
    return {**head, "choices": [choice], "usage": tokens_used([generation])}


@router.post("/v1/completions", responses=documented(Completion, stream=True))
async def completions(request: CompletionRequest, http: Request, service: ServiceHere, caller: CallerHere) -> Any:
    """Continue texts; or, with an encoder-decoder base, generate texts from them."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    chosen = await service.models.choose(request.model, caller)
    service.suited.check_texts()
    service.suited.check_writing(chosen)
    _limit(len(prompts), service)
    tokens = request.max_tokens or service.default_tokens(chosen, _DEFAULT_TOKENS)
    ends = service.ends(chosen, chat=False)
    examples, found = await service.examples(chosen, prompts)
    sources = [None] * len(prompts) if found is None else found
    generations = [_generation(request, one["input_ids"], tokens, service, ends, one) for one in examples]
    for one in generations:
        service.suited.check_prompt(chosen, one.prompt, tokens)
    head = beginning("text_completion", request.model)
    if request.stream:
        usage = request.stream_options is not None and request.stream_options.include_usage
        return stream(text_chunks(service.stream(chosen, generations), generations, head, usage, sources))
    await service.generate(chosen, generations, http.is_disconnected)
    choices = [
        {"index": index, "text": one.text, "logprobs": None, "finish_reason": one.reason} | cited(sources[index])
        for index, one in enumerate(generations)
    ]
    return {**head, "choices": choices, "usage": tokens_used(generations)}


@router.post("/v1/audio/transcriptions", responses=documented(Transcript, stream=True))
async def transcribe(
    request: Annotated[TranscriptionRequest, Form(media_type="multipart/form-data")],
    http: Request,
    service: ServiceHere,
    caller: CallerHere,
) -> Any:
    """Transcribe an audio file."""
    chosen = await service.models.choose(request.model, caller)
    generation = await transcription(service, chosen, request)
    if request.stream:
        return stream(events(service.stream(chosen, [generation]), generation))
    await service.generate(chosen, [generation], http.is_disconnected)
    text = generation.text.strip()
    if request.response_format == "text":
        return PlainTextResponse(f"{text}\n")
    return {"text": text, "usage": usage(generation)}


@router.post("/v1/adapters/{name}", responses=documented(Loaded))
async def load(
    name: Name, service: ServiceHere, caller: CallerHere, request: AdapterRequest | None = None
) -> dict[str, Any]:
    """Make a version of an adapter resident; if a tag is given, point it at the version once that is ready."""
    check_name(name)
    service.models.allow(caller, name, manage=True)
    given = request or AdapterRequest()
    full = await service.background.files(
        service.models.load, f"{name}@{given.version}" if given.version else name, caller
    )
    if given.tag is not None:
        await service.background.files(service.models.tag, full, given.tag, caller)
    return {"model": full, "tag": given.tag}


@router.delete("/v1/adapters/{name}", responses=documented(Unloaded))
async def unload(name: Name, service: ServiceHere, caller: CallerHere) -> dict[str, Any]:
    """Unload an adapter's weights; the store keeps it, and the next request loads it again."""
    check_name(name)
    service.models.allow(caller, name, manage=True)
    return {"unloaded": await service.background.files(service.models.unload, name, caller)}


def _limit(inputs: int, service: Service) -> None:
    if inputs > service.settings.max_inputs:
        raise ConfigError(f"a request may have at most {service.settings.max_inputs} texts, not {inputs}")


def _generation(
    request: ChatRequest | CompletionRequest,
    prompt: list[int],
    tokens: int,
    service: Service,
    ends: frozenset[int],
    example: Example | None = None,
) -> Generation:
    if tokens > service.settings.max_tokens:
        raise ConfigError(f"a request may ask for at most {service.settings.max_tokens} new tokens, not {tokens}")
    drawn = sampling(request.temperature, request.top_p, request.top_k, request.seed)
    read = example if service.pool.served.encoder_decoder else None
    return Generation(prompt, tokens, ends, request.stops(), drawn, example=read)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pefttools"}
