"""transformers' continuous batching on the same device, with the same shapes and requests: whom to compare with."""

import time
from typing import Any

import torch
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.serving import PEER
from benchmarks.gpu.shapes import LLAMA_8B, tiny


def run(device: torch.device, journal: Journal) -> None:
    """Llama-3.1-8B in bfloat16, random weights; the second of two runs counts."""
    import transformers

    is_tiny = device.type != "cuda"
    workload = PEER._replace(num_requests=4, prompt=20, output=8) if is_tiny else PEER
    model = _model(transformers, tiny(LLAMA_8B) if is_tiny else LLAMA_8B, device)
    config = transformers.GenerationConfig(
        max_new_tokens=workload.output, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    # By itself it takes most of the memory, which a trial has no need of.
    cache = transformers.ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64) if is_tiny else None
    random = torch.Generator().manual_seed(0)
    shape = (workload.num_requests, workload.prompt)
    prompts = torch.randint(3, model.config.vocab_size, shape, generator=random).tolist()
    for what in ("first run", "second run"):
        begin = time.perf_counter()
        found = model.generate_batch(
            prompts, generation_config=config, continuous_batching_config=cache, record_timestamps=True
        )
        outputs = list(found.values())
        wall = time.perf_counter() - begin
        num_tokens = sum(len(output.generated_tokens) for output in outputs)
        span = _span(outputs) or wall
        journal.row(
            "transformers",
            model="llama-8b-bf16",
            what=what,
            attention=model.config._attn_implementation,
            requests=workload.num_requests,
            lengths=f"{workload.prompt} / {workload.output}",
            seconds=wall,
            without_start_s=span,
            tokens_per_s=num_tokens / span,
            tokens=num_tokens,
        )
        assert num_tokens == workload.num_requests * workload.output, "it did not answer everything"


def _model(transformers: Any, shape: dict[str, Any], device: torch.device) -> Any:
    fields = {name: value for name, value in shape.items() if name not in ("architectures", "torch_dtype")}
    config = transformers.LlamaConfig(**fields)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def _span(outputs: list[Any]) -> float | None:
    """From the first request's arrival to the last token, where it says so: without start and capture."""
    ends = [max(output.timestamps) for output in outputs if getattr(output, "timestamps", None)]
    begins = [output.created_time for output in outputs if getattr(output, "created_time", None)]
    if not ends or not begins:
        return None
    span = float(max(ends) - min(begins))
    return span if span > 0 else None
