"""Write a folder with int8 weights and activations in the compressed-tensors format. Runs in the transformers peer's
environment.

    python -m benchmarks.peers.prepare.int8_folder FOLDER FOLDER_INT8

Weights: symmetric, a scale for each output row, rounded to nearest. Activations: a scale for each token, found as it
comes. The embedding, which is the last layer too, stays as it is: the format's users leave it so.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SCHEME = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True,
            },
        }
    },
}  # fmt: skip


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name != "model.safetensors.index.json":
            shutil.copy(file, target)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if not name.endswith("_proj.weight"):
                tensors[name] = tensor
                continue
            scale = tensor.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-9) / 127
            scale = scale.to(torch.bfloat16).float()  # as it is stored, before anything is divided by it
            tensors[name] = (tensor.float() / scale).round().clamp(-127, 127).to(torch.int8)
            tensors[f"{name}_scale"] = scale.to(torch.bfloat16)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": SCHEME}, indent=2))


if __name__ == "__main__":
    main()
