"""vLLM's CPU build, by its offline face ``LLM``, with the engine in this very process (its fastest way offline)."""

import os

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import vllm
from benchmarks.peers.drivers.protocol import Options, Tokens, claim_stdout, options, serve


class VLLM:
    def __init__(self, given: Options) -> None:
        self.version = vllm.__version__
        self.settings = "LLM in process, compiled, all cores bound to OpenMP"
        self._llm = vllm.LLM(
            given.model,
            dtype=given.dtype,
            max_model_len=given.max_len,
            kv_cache_memory_bytes=given.kv_bytes,
            max_num_seqs=64,
            disable_log_stats=True,
        )

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        params = vllm.SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(asked, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


if __name__ == "__main__":
    pipe = claim_stdout()
    serve(VLLM(options()), pipe)
