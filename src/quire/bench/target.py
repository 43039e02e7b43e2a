"""The server that is measured: where it is, and what a request to it looks like."""

from typing import Any

import msgspec

from quire.bench.datasets.sample import Sample
from quire.bench.url import split_url
from quire.core.errors import ConfigError

CHAT = ("openai-chat", "vllm-chat", "sglang-oai-chat", "quire-chat")
COMPLETIONS = (
    "openai",
    "vllm",
    "sglang",
    "sglang-oai",
    "quire",
    "llama.cpp",
    "openvino",
    "lmdeploy",
    "tensorrt-llm",
    "deepspeed-mii",
    "scalellm",
)
"""Names that other load generators have for the two endpoints; nothing else depends on them."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An OpenAI-compatible endpoint."""

    base_url: str
    """Without the endpoint's path and without a slash at its end."""
    endpoint: str
    """Path, ``/v1/completions`` or ``/v1/chat/completions`` or under another prefix."""
    is_chat: bool
    headers: dict[str, str] = {}
    verifies_certificates: bool = True

    @property
    def url(self) -> str:
        return self.base_url + self.endpoint

    @property
    def models_url(self) -> str:
        """Where the list of models lies, beside the endpoint."""
        path = self.endpoint.removesuffix("/completions").removesuffix("/chat")
        return f"{self.base_url}{path}/models"

    def body(self, model: str, sample: Sample, extra: dict[str, Any]) -> bytes:
        """A request as it is sent; ``extra`` has the last word."""
        body: dict[str, Any] = {"model": model}
        if self.is_chat:
            body["messages"] = [{"role": "user", "content": sample.prompt}]
        else:
            body["prompt"] = sample.prompt
        body |= {"max_tokens": sample.num_output_tokens, "stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode(body | extra)

    def logprobs(self, count: int) -> dict[str, Any]:
        """The fields that ask for log probabilities."""
        return {"logprobs": True, "top_logprobs": count} if self.is_chat else {"logprobs": count}


def find_target(
    base_url: str, backend: str | None, endpoint: str | None, headers: dict[str, str], verifies_certificates: bool
) -> Target:
    """The endpoint that these words name; ``backend`` and ``endpoint`` may be left out. Raises ConfigError."""
    split_url("--base-url", base_url)
    if backend is not None and backend not in COMPLETIONS + CHAT:
        raise ConfigError(f"--backend {backend}: must be one of {', '.join(COMPLETIONS + CHAT)}.")
    is_chat = backend in CHAT if backend is not None else (endpoint or "").endswith("/chat/completions")
    endpoint = endpoint or ("/v1/chat/completions" if is_chat else "/v1/completions")
    wanted = "/chat/completions" if is_chat else "/completions"
    if (
        not endpoint.startswith("/")
        or not endpoint.endswith(wanted)
        or (not is_chat and endpoint.endswith("/chat" + wanted))
    ):
        raise ConfigError(f"--endpoint {endpoint}: must be a path that ends with {wanted}, for --backend {backend}.")
    base_url = base_url.rstrip("/")
    if endpoint.startswith("/v1/"):
        base_url = base_url.removesuffix("/v1")
    return Target(
        base_url=base_url,
        endpoint=endpoint,
        is_chat=is_chat,
        headers=headers,
        verifies_certificates=verifies_certificates,
    )
