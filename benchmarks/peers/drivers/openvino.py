"""OpenVINO GenAI's continuous batching pipeline: paged attention, prefix cache, dynamic batches."""

import time

import numpy as np
import openvino
import openvino_genai
from benchmarks.peers.drivers.protocol import Options, Tokens, claim_stdout, options, serve


class OpenVINO:
    def __init__(self, given: Options) -> None:
        self.version = openvino_genai.__version__
        self.settings = "ContinuousBatchingPipeline, prefix caching, latency hint, its own KV precision"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = max(1, given.kv_bytes >> 30)
        properties = {"INFERENCE_NUM_THREADS": given.threads, "PERFORMANCE_HINT": "LATENCY"}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(given.model, scheduler, "CPU", properties)
        self._num_asked = 0

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        asked = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        outputs = self._pipeline.generate(asked, [_config(output_len)] * len(prompts))
        return [list(output.m_generation_ids[0]) for output in outputs]

    def clients(self, prompts: Tokens, output_len: int, clients: int) -> tuple[list[float], list[float]]:
        """``clients`` callers in a closed loop, inside this process, since the package has no server.

        Returns the seconds to each request's first token, and between its later ones.
        """
        waiting, running = list(reversed(prompts)), []
        first_s: list[float] = []
        gaps_s: list[float] = []
        while waiting or running:
            while waiting and len(running) < clients:
                ids = openvino.Tensor(np.array([waiting.pop()], dtype=np.int64))
                self._num_asked += 1
                handle = self._pipeline.add_request(self._num_asked, ids, _config(output_len))
                running.append([handle, time.perf_counter(), True])
            self._pipeline.step()
            now = time.perf_counter()
            for entry in running:
                handle, since, is_first = entry
                if handle.can_read():
                    handle.read()
                    (first_s if is_first else gaps_s).append(now - since)
                    entry[1:] = [now, False]
            finished = openvino_genai.GenerationStatus.FINISHED
            running = [entry for entry in running if entry[0].get_status() != finished or entry[0].can_read()]
        return first_s, gaps_s


def _config(output_len: int) -> openvino_genai.GenerationConfig:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = output_len
    config.ignore_eos = True
    config.do_sample = False
    return config


if __name__ == "__main__":
    pipe = claim_stdout()
    serve(OpenVINO(options()), pipe)
