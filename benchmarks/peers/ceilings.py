"""What the machine would allow: weights read once a step, multiplications at the peak of the type, nothing else.

A roofline without attention, so a little higher than the truth. Peaks are those measured in the same run.
"""

from pathlib import Path

from benchmarks.peers.models import Model
from benchmarks.peers.workloads import HTTP, OFFLINE


def weight_bytes(path: Path) -> int:
    """What lies in a model's file, or in the weight files of its folder."""
    files = [path] if path.is_file() else [*path.glob("*.safetensors")]
    return sum(file.stat().st_size for file in files)


def ceilings(model: Model, read_bytes: int, read_gb_s: float, peak_giga_s: float) -> dict[str, float]:
    """Metric -> best possible value, for weights of ``read_bytes`` multiplied at ``peak_giga_s``."""
    body_s = 2 * (model.matrix_parameters - model.head_parameters) / (peak_giga_s * 1e9)
    head_s = 2 * model.head_parameters / (peak_giga_s * 1e9)
    read_s = read_bytes / (read_gb_s * 1e9)

    def batch(num_requests: int, prompt_tokens: int, output_len: int) -> float:
        """Seconds: all prompt tokens, then a step for each output token, bound by memory or by arithmetic."""
        step_s = max(read_s, num_requests * (body_s + head_s))
        return prompt_tokens * body_s + num_requests * head_s + (output_len - 1) * step_s

    w1, w2, w3, w4, w5 = OFFLINE["W1"], OFFLINE["W2"], OFFLINE["W3"], OFFLINE["W4"], HTTP["W5"]
    own_len = w4.prompt_len - w4.shared_len
    w4_out = w4.num_requests * w4.output_len
    first_s = max(read_s, w1.prompt_len * body_s + head_s)
    # Sixteen clients in a closed loop are four batches of sixteen, one after the other.
    w5_s = w5.num_requests / w5.clients * batch(w5.clients, w5.clients * w5.prompt_len, w5.output_len)
    return {
        "w1_decode": 1 / max(read_s, body_s + head_s),
        "w1_ttft_ms": 1e3 * first_s,
        "w2": w2.num_requests * w2.output_len / batch(w2.num_requests, w2.num_requests * w2.prompt_len, w2.output_len),
        "w3": w3.num_requests * w3.prompt_len / batch(w3.num_requests, w3.num_requests * w3.prompt_len, 1),
        "w4_off": w4_out / batch(w4.num_requests, w4.num_requests * w4.prompt_len, w4.output_len),
        "w4_on": w4_out / batch(w4.num_requests, w4.shared_len + w4.num_requests * own_len, w4.output_len),
        "w4_primed": w4_out / batch(w4.num_requests, w4.num_requests * own_len, w4.output_len),
        "w5": w5.num_requests * w5.output_len / w5_s,
        "w6": 1 / max(read_s, body_s + head_s),
        "w6_ttft_p50_ms": 1e3 * first_s,
    }
