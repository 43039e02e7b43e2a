"""Quire, by its offline face ``LLM``; in the checkout's own environment."""

from benchmarks.peers.drivers.protocol import Options, Tokens, claim_stdout, options, serve

from quire import SamplingParams
from quire.llm import LLM
from quire.version import __version__


class Quire:
    """Defaults, but for the threads, the type and the KV cache that every engine is given."""

    def __init__(self, given: Options) -> None:
        self.version = __version__
        self.settings = "LLM, defaults"
        self._llm = LLM(
            given.model,
            dtype=given.dtype,
            num_threads=given.threads,
            kv_cache_memory_bytes=given.kv_bytes,
            max_model_len=given.max_len,
        )

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True, detokenize=False)
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


if __name__ == "__main__":
    pipe = claim_stdout()
    serve(Quire(options()), pipe)
