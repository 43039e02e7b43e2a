"""Other programs' spellings of our flags: vLLM, SGLang, TensorRT-LLM's server, llama.cpp's.

``quire serve`` reads them as flags and YAML keys, ``LLM(...)`` as keywords; nothing else knows them.

A flag that means the same is another name of our setting; one whose values differ has a function. A flag that cannot
change any answer here is accepted, and one line of log says why. A flag that would change answers, or that asks for
something that does not exist yet, is refused by name: nothing is swallowed.

Flags are written with ``-``; ``_`` reads the same, and a YAML key is a flag without its dashes, nested keys joined by a
dot. A trailing ``=`` marks a flag that takes a value, ``=*`` one that takes several.
"""

from collections.abc import Callable
from typing import Any

SAME: dict[str, str] = {
    "model": "-m --model-path -hf -hfr --hf-repo",
    "served_model_name": "--alias -a",
    "tokenizer": "--tokenizer-path",
    "quantization": "-q",
    "max_model_len": "--context-length --max-seq-len --session-len",
    "seed": "--random-seed",
    "chat_template": "--chat-template-file",
    "hf_overrides": "--json-model-override-args",
    "block_size": "--page-size --tokens-per-block --kv-cache-config.tokens-per-block",
    "gpu_memory_utilization": "--device-memory-utilization --mem-fraction-static --free-gpu-memory-fraction "
    "--kv-cache-free-gpu-memory-fraction --kv-cache-config.free-gpu-memory-fraction",
    "kv_cache_dtype": "--kv-cache-config.dtype",
    "enable_prefix_caching": "--kv-cache-config.enable-block-reuse --cache-prompt",
    "max_num_batched_tokens": "--max-num-tokens -b --batch-size",
    "max_num_seqs": "--max-batch-size --max-running-requests",
    "max_num_queued_reqs": "--max-queued-requests",
    "scheduling_policy": "--schedule-policy --scheduler-config.waiting-queue-policy",
    "tensor_parallel_size": "-tp --tp --tp-size",
    "pipeline_parallel_size": "-pp --pp --pp-size",
    "data_parallel_size": "-dp --dp --dp-size",
    "enable_expert_parallel": "--enable-ep",
    "enforce_eager": "--disable-cuda-graph",
    "root_path": "--fastapi-root-path",
    "default_chat_template_kwargs": "--chat-template-kwargs",
    "ssl_keyfile": "--ssl-key-file",
    "ssl_certfile": "--ssl-cert-file",
    "max_header_bytes": "--h11-max-incomplete-event-size",
    "max_header_count": "--h11-max-header-count",
    "sse_keep_alive_s": "--sse-keep-alive-interval",
    "shutdown_timeout_s": "--shutdown-timeout",
}
"""Our setting -> other names of it."""

INVERTED: dict[str, str] = {
    "enable_prefix_caching": "--disable-radix-cache",
    "enable_chunked_prefill": "--disable-chunked-prefill",
    "enable_docs": "--disable-fastapi-docs",
    "access_log": "--disable-uvicorn-access-log",
}
"""Our setting -> flags that switch it off."""

VALUES: dict[str, dict[str, str]] = {
    "dtype": {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"},
    "kv_cache_dtype": {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"},
    "quantization": {
        "none": "auto",
        "None": "auto",
        "awq_marlin": "awq",
        "gptq_marlin": "gptq",
        "compressed_tensors": "compressed-tensors",
    },
    "max_model_len": {"-1": "auto"},
    "generation_config": {"vllm": "none"},
    "log_level": {"trace": "debug", "verbose": "debug", "warn": "warning", "internal_error": "critical"},
}
"""Our setting -> other words for its values."""

INSTEAD: dict[str, dict[str, str]] = {
    "kv_cache_dtype": dict.fromkeys(
        ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4", "fp4_e2m1"),
        "keys and values of 8 bits are int8 in Quire, with a scale for each token and head; use int8",
    ),
}
"""Our setting -> values that it has elsewhere, and what to use here."""


def _chunked_prefill_size(text: str) -> dict[str, str | bool]:
    """SGLang: the prompt tokens of one step; -1 computes each prompt whole."""
    return {"enable_chunked_prefill": False} if text == "-1" else {"max_num_batched_tokens": text}


def _auto_if(word: str, field: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {field: "auto" if text == word else text}


CONVERTED: dict[str, Callable[[str], dict[str, Any]]] = {
    "--chunked-prefill-size": _chunked_prefill_size,
    "--sampling-defaults": lambda text: {"generation_config": {"model": "auto", "openai": "none"}.get(text, text)},
    "-c": _auto_if("0", "max_model_len"),
    "--ctx-size": _auto_if("0", "max_model_len"),
    "-t": _auto_if("-1", "num_threads"),
    "--threads": _auto_if("-1", "num_threads"),
    "-s": _auto_if("-1", "seed"),
    "-np": _auto_if("-1", "max_num_seqs"),
    "--parallel": _auto_if("-1", "max_num_seqs"),
}
"""Flag -> a function of its value that gives our settings, as text or bool."""

NO_EFFECT: dict[str, str] = {
    "code that comes with a model is never run": "--trust-remote-code --code-revision=",
    "/load and /tokenizer_info are always served": "--enable-server-load-tracking --enable-tokenizer-info-endpoint",
    "/sleep is always served, and gives memory back": "--enable-sleep-mode",
    "/docs is drawn here, and needs nothing from elsewhere": "--enable-offline-docs",
    "/metrics is always served": "--enable-metrics --metrics --disable-log-stats --enable-iter-perf-stats "
    "--return-perf-metrics --aggregate-engine-logging --decode-log-interval=",
    "no metric is hidden": "--show-hidden-metrics-for-version=",
    "what requests contain is never logged; --access-log logs one line for each": "--disable-log-requests "
    "--enable-log-requests --enable-log-outputs --enable-log-deltas --log-requests --log-requests-level= "
    "--max-log-len= --disable-access-log-for-endpoints=",
    "the HTTP server logs at --log-level": "--uvicorn-log-level= --log-level-http=",
    "usage always counts cached tokens": "--enable-prompt-tokens-details --enable-cache-report",
    "every answer carries its request id": "--enable-request-id-headers",
    "steps are recorded and compiled as the device allows": "--enable-torch-compile "
    "--torch-compile-max-bs= --compilation-config= -cc= --optimization-level= -O= "
    "--cudagraph-capture-sizes=* --max-cudagraph-capture-size= --cuda-graph-max-bs= --cuda-graph-bs=* "
    "--cuda-graph-max-bs-decode= --cuda-graph-config= --torch-compile-config= --performance-mode= "
    "--enable-autotuner --enable-flashinfer-autotune",
    "the fastest kernels for the machine are chosen, and all give the same answer": "--attention-backend= "
    "--prefill-attention-backend= --decode-attention-backend= --attn-backend= --sampling-backend= --moe-backend= "
    "--moe-runner-backend= --linear-backend= --disable-cascade-attn -fa= --flash-attn= --use-v2-block-manager",
    "the next step is launched ahead wherever a device computes beside the host": "--async-scheduling "
    "--disable-overlap-schedule --disable-overlap-scheduler",
    "one step always mixes prompts and running sequences": "--enable-mixed-chunk --max-prefill-tokens= "
    "--num-scheduler-steps= --num-continuous-decode-steps= --scheduler-reserve-full-isl --schedule-conservativeness= "
    "--scheduler-config.capacity-scheduler-policy= --scheduler-config.context-chunking-policy= "
    "--enable-prefix-aware-scheduling --cont-batching -cb -ub= --ubatch-size=",
    "sequences that do not fit are computed again, not swapped": "--swap-space= --preemption-mode=",
    "all sequences share one pool of KV blocks": "--kv-unified -kvu --cache-idle-slots --no-cache-idle-slots",
    "the prefix cache compares the tokens themselves, and reuses parts of blocks": "--prefix-caching-hash-algo= "
    "--kv-cache-config.enable-partial-reuse --kv-cache-config.copy-on-partial-reuse --disable-hybrid-kv-cache-manager",
    "answers never depend on what else runs": "--enable-deterministic-inference",
    "weights are read from the file as they are needed, each once": "--safetensors-load-strategy= --use-tqdm-on-load "
    "--max-parallel-loading-workers= --model-loader-extra-config= --ignore-patterns=* --pt-load-map-location= "
    "--mmap --no-mmap --mlock",
    "the engine always has a process of its own, and the HTTP server one": "--disable-frontend-multiprocessing "
    "--api-server-count= -asc= --num-postprocess-workers= --num-serve-frontends= --renderer-num-workers= "
    "--gpus-per-node= --skip-server-warmup --sleep-on-idle --watchdog-timeout= --garbage-collection-gen0-threshold=",
    "models are text only here: requests with images or sound are refused": "--language-model-only "
    "--limit-mm-per-prompt= --allowed-local-media-path= --allowed-media-domains=* --mm-processor-kwargs= "
    "--media-io-kwargs= --mm-processor-cache-gb= --disable-mm-preprocessor-cache --skip-mm-profiling",
    "the model runs on one device": "--disable-custom-all-reduce --all2all-backend= --master-addr= --master-port= "
    "--dist-init-addr= --nccl-init-addr= --data-parallel-address= -dpa= --data-parallel-rpc-port= -dpp= "
    "--gpu-layers= --n-gpu-layers= -ngl=",
    "a model that may call tools is told of them, unless tool_choice is none": "--enable-auto-tool-choice "
    "--exclude-tools-when-tool-choice-none",
    "chat templates are always rendered by Jinja rules": "--jinja",
    "there is no web page and no slot endpoint to switch": "--no-webui --no-ui --slots --no-slots",
    "one library holds answers to every kind of schema and grammar": "--guided-decoding-backend= --grammar-backend= "
    "--structured-outputs-config.backend=",
    "nothing is sent home": "--no-telemetry",
}
"""Why a flag has no effect here -> the flags."""

ONLY: dict[str, str] = {
    "--tokenizer-mode": "auto hf slow fast",
    "--runner": "auto generate",
    "--task": "auto generate",
    "--convert": "auto none",
    "--model-impl": "auto vllm sglang",
    "--backend": "auto pytorch",
    "--config-format": "auto hf",
    "--logprobs-mode": "raw_logprobs",
    "--chat-template-content-format": "auto",
    "--distributed-executor-backend": "mp uni",
    "--data-parallel-backend": "mp",
    "-dpb": "mp",
    "--disaggregation-mode": "null",
    "--max-beam-width": "1",
    "--stream-interval": "1",
    "--nnodes": "1",
    "-n": "1",
    "--node-rank": "0",
    "-r": "0",
    "--ep": "1",
    "--ep-size": "1",
    "--expert-parallel-size": "1",
    "--moe-expert-parallel-size": "1",
    "--moe-tensor-parallel-size": "1",
    "--moe-cluster-parallel-size": "1",
    "--cp-size": "1",
    "--context-parallel-size": "1",
    "--decode-context-parallel-size": "1",
    "-dcp": "1",
    "--prefill-context-parallel-size": "1",
    "-pcp": "1",
    "--attn-dp-size": "1",
    "--cpu-offload-gb": "0",
    "--cpu-offload-bytes": "0",
    "--kv-offloading-size": "0",
    "--kv-cache-config.host-cache-size": "0",
    "--watermark": "0 0.0",
    "--cuda-graph-padding": "auto",
}
"""Flag -> the values that ask for what happens here anyway; others are refused."""

NOT_YET: dict[str, str] = {
    "quantizing a model on the fly": "--quantization-config= --quantization-param-path= --load-in-4bit "
    "--torchao-config= --quant-policy=",
    "speculative decoding": "--speculative-config= -sc= --spec-method= --spec-model= --spec-tokens= "
    "--speculative-model= --num-speculative-tokens= --speculative-algorithm= --speculative-draft-model-path= "
    "--speculative-num-steps= --speculative-eagle-topk= --speculative-num-draft-tokens= -md= --model-draft=",
    "LoRA adapters": "--enable-lora --lora-modules=* --lora-paths=* --lora= --lora-config= --max-loras= "
    "--max-lora-rank= --max-cpu-loras= --lora-dtype= --max-loras-per-batch= --fully-sharded-loras "
    "--lora-target-modules=*",
    "settings for structured output; requests have them": "--structured-outputs-config= "
    "--structured-outputs-config.disable-any-whitespace --structured-outputs-config.disable-additional-properties",
    "tools of the server's own": "--tool-server=",
    "parsers that are loaded at the start": "--tool-parser-plugin= --reasoning-parser-plugin= --reasoning-config=",
    "leaving reasoning in the text": "--reasoning-format=",
    "embedding and other pooling models": "--is-embedding --embedding --embeddings --rerank --reranking --pooling= "
    "--pooler-config=",
    "prompt embeddings": "--enable-prompt-embeds",
    "running without a tokenizer": "--skip-tokenizer-init",
    "custom logits processors": "--logits-processors=* --enable-custom-logit-processor",
    "a tokenizer of another revision": "--tokenizer-revision= --custom-tokenizer=",
    "configurations from elsewhere": "--hf-config-path=",
    "switching sliding windows off": "--disable-sliding-window --kv-cache-config.max-attention-window=*",
    "truncating prompts that are too long without being asked": "--allow-auto-truncate",
    "priorities where higher runs first; --scheduling-policy priority runs lower values first": ""
    "--enable-priority-scheduling",
    "a KV cache given in tokens; use --kv-cache-memory-bytes": "--max-total-tokens= --kv-cache-config.max-tokens=",
    "KV caches on other machines": "--kv-transfer-config= --kv-events-config= --ec-transfer-config= "
    "--kv-connector-config= --cache-transceiver-config= --disaggregation-transfer-backend= --server-role=",
    "KV caches in several tiers": "--enable-hierarchical-cache --hicache-ratio= --hicache-size= "
    "--kv-offloading-backend=",
    "several nodes": "--headless --data-parallel-rank= -dpn= --data-parallel-start-rank= -dpr= "
    "--data-parallel-size-local= -dpl= --data-parallel-hybrid-lb -dph --data-parallel-external-lb -dpe",
    "several devices": "--enable-dp-attention --enable-attention-dp --enable-eplb --enable-dbo "
    "--base-gpu-id= --device-ids= --numa-bind",
    "SGLang's endpoints to release memory; POST /sleep does": "--enable-memory-saver",
    "falling asleep when idle": "--sleep-idle-seconds=",
    "shifting a context that is full": "--context-shift",
    "saving slots": "--slot-save-path=",
    "tags of models": "--tags=",
    "defaults for sampling as flags; use --override-generation-config": "--temp= --temperature= "
    "--top-k= --top-p= --min-p= --repeat-penalty= --repeat-last-n= --presence-penalty= --frequency-penalty= --predict= "
    "--n-predict=",
    "origins in llama.cpp's words; use --allowed-origins": "--cors-origins= --cors-methods= --cors-headers=",
    "a switch for reasoning; use --default-chat-template-kwargs '{\"enable_thinking\": false}'": "--reasoning= -rea=",
    "files that requests name": "--media-path=",
    "profiling": "--profiler-config=",
    "traces": "--otlp-traces-endpoint= --collect-detailed-traces= --enable-trace",
    "these endpoints": "--tokens-only --enable-scale-out --grpc --grpc-port= --uds= --admin-api-key= --api-key-file=",
    "code of your own in the server; put a proxy in front": "--middleware=* --custom-module-dirs=*",
    "these TLS settings; put a proxy in front": "--ssl-ca-certs= --ssl-cert-reqs= --ssl-ciphers= --enable-ssl-refresh",
    "a flag for this; --model org/name:FILE.gguf names one file of a repository": "-hff= --hf-file=",
}
"""What this version does not have -> flags that ask for it."""
