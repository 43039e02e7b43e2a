"""transformers ``generate()``, one batch at a time; shorter prompts are padded on the left."""

import torch
import transformers
from benchmarks.peers.drivers.protocol import Options, Tokens, claim_stdout, options, serve
from transformers import AutoModelForCausalLM


class Transformers:
    def __init__(self, given: Options) -> None:
        torch.set_num_threads(given.threads)
        self.version = f"{transformers.__version__} (torch {torch.__version__})"
        self.settings = "generate(), one batch, sdpa"
        self._model = AutoModelForCausalLM.from_pretrained(
            given.model, dtype=getattr(torch, given.dtype), attn_implementation="sdpa"
        )
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=output_len, use_cache=True
            )
        tokens: Tokens = out[:, width:].tolist()
        return tokens


if __name__ == "__main__":
    pipe = claim_stdout()
    serve(Transformers(options()), pipe)
