"""What command lines, config files and the environment come to."""

from pathlib import Path

import pytest

from quire.cli.fields import parse_int
from quire.cli.flags import Reading, parse, read
from quire.core.config import DEFAULT_MODEL, ServeConfig
from quire.core.errors import ConfigError


def reading(*argv: str, **environ: str) -> Reading:
    return read("quire serve", "", argv, environ=environ)


def given(*argv: str, **environ: str) -> dict[str, object]:
    return reading(*argv, **environ).settings


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        reading(*argv, **environ)
    return caught.value.message


def test_nothing_given_is_the_default() -> None:
    assert parse([], {}) == ServeConfig()
    assert parse([], {}).engine.model.model == DEFAULT_MODEL


def test_settings_reach_their_structs() -> None:
    config = parse(["some/model", "--port", "9", "--max-num-seqs=3", "--device", "cpu", "--block-size", "8"], {})
    assert config.engine.model.model == "some/model"
    assert config.server.port == 9
    assert config.engine.scheduler.max_num_seqs == 3
    assert config.engine.machine.device == "cpu"
    assert config.engine.cache.block_size == 8


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["m"], {"model": "m"}),
        (["--model", "m"], {"model": "m"}),
        (["m", "--model", "m"], {"model": "m"}),
        (["--port", "1", "m"], {"port": 1, "model": "m"}),
        (["--max_model_len", "4k"], {"max_model_len": 4000}),
        (["--max-model-len=4K"], {"max_model_len": 4096}),
        (["--max-model-len", "-1"], {"max_model_len": None}),
        (["--max-model-len", "auto"], {"max_model_len": None}),
        (["--kv-cache-memory-bytes", "2G"], {"kv_cache_memory_bytes": 2 * 2**30}),
        (["--seed", "-3"], {"seed": -3}),
        (["--gpu-memory-utilization", "0.5"], {"gpu_memory_utilization": 0.5}),
        (["--no-enable-prefix-caching"], {"enable_prefix_caching": False}),
        (["--access-log"], {"access_log": True}),
        (["--served-model-name", "a", "b"], {"served_model_name": ["a", "b"]}),
        (["--api-key", "a", "b", "--api-key", "c"], {"api_key": ["a", "b", "c"]}),
        (["--allowed-origins", '["x", "y"]'], {"allowed_origins": ["x", "y"]}),
        (["--log-level", "DEBUG"], {"log_level": "debug"}),
    ],
)
def test_our_own_flags(argv: list[str], expected: dict[str, object]) -> None:
    assert given(*argv) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # vLLM
        ("-tp 1 -pp=1 -dp 1", dict(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)),
        ("--dtype half", dict(dtype="float16")),
        ("--disable-fastapi-docs --disable-uvicorn-access-log", dict(enable_docs=False, access_log=False)),
        ("--h11-max-header-count 50 --shutdown-timeout 3", dict(max_header_count=50, shutdown_timeout_s=3.0)),
        ("--generation-config vllm -O3", dict(generation_config="none")),
        # SGLang
        (
            "--model-path m --tp 1 --mem-fraction-static 0.4",
            dict(model="m", tensor_parallel_size=1, gpu_memory_utilization=0.4),
        ),
        ("--context-length 2048 --chunked-prefill-size 256", dict(max_model_len=2048, max_num_batched_tokens=256)),
        ("--chunked-prefill-size -1", dict(enable_chunked_prefill=False)),
        ("--max-running-requests 4 --schedule-policy lpm", dict(max_num_seqs=4, scheduling_policy="lpm")),
        (
            "--disable-radix-cache --page-size 16 --random-seed 7",
            dict(enable_prefix_caching=False, block_size=16, seed=7),
        ),
        ("--sampling-defaults openai", dict(generation_config="none")),
        # TensorRT-LLM
        (
            "m --tp_size 1 --max_batch_size 8 --max_num_tokens 512",
            dict(model="m", tensor_parallel_size=1, max_num_seqs=8, max_num_batched_tokens=512),
        ),
        (
            "--max_seq_len 1k --kv_cache_free_gpu_memory_fraction 0.3",
            dict(max_model_len=1000, gpu_memory_utilization=0.3),
        ),
        # llama.cpp
        (
            "-m m.gguf -c 2048 -t 2 -np 4 -b 128",
            dict(model="m.gguf", max_model_len=2048, num_threads=2, max_num_seqs=4, max_num_batched_tokens=128),
        ),
        (
            "-c 0 -t -1 -b8 --alias x",
            dict(max_model_len=None, num_threads=None, max_num_batched_tokens=8, served_model_name=["x"]),
        ),
        (
            "-a x -s -1 --no-cache-prompt --kv-unified --no-context-shift",
            dict(served_model_name=["x"], seed=None, enable_prefix_caching=False),
        ),
        (
            '-s 3 --cache-prompt --chat-template-kwargs {"a":1}',
            dict(seed=3, enable_prefix_caching=True, default_chat_template_kwargs={"a": 1}),
        ),
        # the model's own files
        (
            '--hf-overrides {"rope_scaling":{"factor":4.0}} --override-generation-config={"top_k":3}',
            dict(hf_overrides={"rope_scaling": {"factor": 4.0}}, override_generation_config={"top_k": 3}),
        ),
        ('--json-model-override-args {"a":1}', dict(hf_overrides={"a": 1})),
    ],
)
def test_other_dialects(line: str, expected: dict[str, object]) -> None:
    assert given(*line.split()) == expected


def test_flags_without_effect_say_why_once() -> None:
    found = reading("m", "--enable-torch-compile", "--trust-remote-code", "--swap-space", "4", "--enable-torch-compile")
    assert found.settings == {"model": "m"}
    assert len(found.notes) == 3
    assert found.notes[1] == "--trust-remote-code has no effect: code that comes with a model is never run."


def test_flags_that_open_what_is_always_open_are_taken() -> None:
    flags = "--enable-tokenizer-info-endpoint --enable-server-load-tracking --enable-sleep-mode --enable-offline-docs"
    valued = "--show-hidden-metrics-for-version 0.9 --structured-outputs-config.backend=xgrammar"
    found = reading("m", *flags.split(), *valued.split())
    assert found.settings == {"model": "m"}
    assert len(found.notes) == 6


def test_a_switch_without_effect_does_not_swallow_the_model() -> None:
    assert given("--enable-torch-compile", "m") == {"model": "m"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--max-model-length 4", "did you mean --max-model-len?"),
        ("--tensor-paralel-size=2", "did you mean --tensor-parallel-size?"),
        ("--zzz", "quire serve --help"),
        ("-d 1", "unknown flag -d"),
        ("--max-model 4", "unknown flag --max-model"),
        ("--enable-lora", "does not have LoRA adapters"),
        ("--speculative-config {}", "speculative decoding"),
        ("--enable-memory-saver", "POST /sleep does"),
        ("--context-shift", "does not have shifting a context"),
        ("--hf-overrides [1]", "--hf-overrides [1]: expected a JSON object"),
        ("--temp 0.8", "--override-generation-config"),
        ("--cors-origins localhost", "use --allowed-origins"),
        ("--reasoning off", "use --default-chat-template-kwargs"),
        ("--tool-parser-plugin x.py", "--tool-parser-plugin"),
        ("-q bitsandbytes", "-q bitsandbytes: must be one of auto, fp8, awq"),
        ("--tokenizer-mode mistral", "--tokenizer-mode mistral"),
        ("--ep 8", "--ep 8"),
        ("--kv-cache-dtype int4", "must be one of auto, float32, bfloat16, float16, int8"),
        ("--kv-cache-dtype fp8_e5m2", "--kv-cache-dtype fp8_e5m2: keys and values of 8 bits are int8"),
        ("--gpu-memory-utilization 1.5", "--gpu-memory-utilization 1.5: expected float <= 1.0"),
        ("--gpu-memory-utilization nan", "--gpu-memory-utilization nan"),
        ("--served-model-name=", "--served-model-name"),
        ("--served-model-name a --alias=", "--alias : expected str of length >= 1"),
        ("--block-size 0", "--block-size 0: expected int >= 1"),
        ("--port http", "--port http: expected a whole number"),
        ("--max-model-len 10000000000000000000000", "expected a whole number of 64 bits"),
        ("--max-model-len infk", "expected a whole number of 64 bits"),
        ("--max-num-batched-tokens 9999999999", "expected int <= 1048576"),
        ("--max-num-seqs 1.5K", "--max-num-seqs 1.5K: expected a whole number"),
        ("--port", "--port"),
        ("a b", "unexpected argument 'b'"),
        ("a --model b", "two models"),
        ("--allowed-origins [1", "JSON"),
    ],
)
def test_what_cannot_be_is_refused_by_name(line: str, words: str) -> None:
    assert words in refusal(*line.split())


def test_no_to_what_does_not_exist_is_fine() -> None:
    assert given("--no-enable-lora", "--runner", "generate", "--stream-interval", "1") == {}


def test_names_of_quantizations() -> None:
    assert given("-q", "awq_marlin") == {"quantization": "awq"}
    assert given("--quantization", "None") == {"quantization": "auto"}
    assert given("--quantization", "compressed_tensors") == {"quantization": "compressed-tensors"}


def test_environment_gives_way_to_flags() -> None:
    assert given(VLLM_LOGGING_LEVEL="WARNING") == {"log_level": "warning"}
    assert given(QUIRE_LOG_LEVEL="error", VLLM_LOGGING_LEVEL="DEBUG") == {"log_level": "error"}
    assert given("--log-level", "info", QUIRE_LOG_LEVEL="error") == {"log_level": "info"}
    assert "QUIRE_LOG_LEVEL" in refusal(QUIRE_LOG_LEVEL="loud")


def write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_speaks_every_dialect(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        model: m
        max_model_len: 4k
        max-num-seqs: 8
        api_key: [a, -b]
        enable_prefix_caching: false
        disable-uvicorn-access-log: true
        tp_size: 1
        tp: 1
        seed: -4
        dtype: null
        enable_lora: false
        lora_modules: []
        enforce_eager: true
        kv_cache_config: {free_gpu_memory_fraction: 0.5, tokens_per_block: 32, enable_partial_reuse: true}
        cuda_graph_config: {enable_padding: true}
        hf_overrides: {rope_scaling: {factor: 2}}
        """,
    )
    found = reading("--config", path)
    assert found.settings == {
        "model": "m",
        "max_model_len": 4000,
        "max_num_seqs": 8,
        "api_key": ["a", "-b"],
        "enable_prefix_caching": False,
        "access_log": False,
        "tensor_parallel_size": 1,
        "seed": -4,
        "gpu_memory_utilization": 0.5,
        "block_size": 32,
        "enforce_eager": True,
        "hf_overrides": {"rope_scaling": {"factor": 2}},
    }
    assert len(found.notes) == 2


def test_the_command_line_wins_over_the_file_and_the_file_over_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 1\napi-key: [a]\nlog_level: error\nmodel: m")
    found = given("n", "--config", path, "--port", "2", "--api-key", "b", QUIRE_LOG_LEVEL="debug")
    assert found == {"model": "n", "port": 2, "api_key": ["b"], "log_level": "error"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_model_length: 4", "did you mean --max-model-len?"),
        ("port: many", "--port many"),
        ("port: [1, 2]", "--port"),
        ("speculative_config: {method: ngram}", "speculative decoding"),
        ("- a\n- b", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("config: other.yaml", "cannot name another"),
        ("enable_lora: true", "LoRA"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    message = refusal("--config", path)
    assert message.startswith(path) and words in message


def test_a_missing_file_is_refused() -> None:
    assert "no_such.yaml: cannot be read: No such file" in refusal("--config", "no_such.yaml")


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("1k", 1000), ("1K", 1024), ("25.6k", 25600), ("2m", 2_000_000), ("1M", 2**20), ("3g", 3 * 10**9)],
)
def test_sizes(text: str, number: int) -> None:
    assert parse_int(text) == number


@pytest.mark.parametrize("text", ["", "k", "1.5K", "1e3", "4kb", "x"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_int(text)
