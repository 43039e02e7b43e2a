"""Families: logits equal transformers', every tensor finds its place, and the road does not change a bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quire.core.errors import CorruptCheckpoint, UnsupportedModel

LENGTH = 130
YARN = dict(rope_type="yarn", rope_theta=10_000.0, factor=4.0, original_max_position_embeddings=32)
MIXTURE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama biases": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "llama one kv head": ("Llama", dict(num_key_value_heads=1)),
    "llama wide heads": ("Llama", dict(head_dim=32)),
    "llama linear": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=5e3, factor=4.0))),
    "llama dynamic": ("Llama", dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0))),
    "llama yarn": ("Llama", dict(rope_parameters=YARN)),
    "llama yarn mscale": ("Llama", dict(rope_parameters=YARN | dict(mscale=0.7, mscale_all_dim=1.3, truncate=False))),
    "mistral no window": ("Mistral", dict(sliding_window=None)),
    "qwen2 no window": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3 biases": ("Qwen3", dict(attention_bias=True)),
    "qwen3_moe every second": ("Qwen3Moe", MIXTURE | dict(decoder_sparse_step=2)),
    "qwen3_moe window": ("Qwen3Moe", MIXTURE | dict(use_sliding_window=True, sliding_window=24)),
    "qwen3_moe one of one": ("Qwen3Moe", MIXTURE | dict(num_experts=1, num_experts_per_tok=1)),
    "gemma3 softcap": ("Gemma3Text", dict(final_logit_softcapping=5.0, sliding_window=9)),
    "gemma3 pattern": ("Gemma3Text", dict(num_hidden_layers=7)),
}
NAMES = ("llama", "llama_rope3", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3")
TOKENS = torch.randint(6, 384, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()


def transformers_logits(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([TOKENS])).logits[0].float()
    return logits


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference < 1e-4, difference


@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name: str, tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]) -> None:
    folder = tiny_checkpoint(name)
    run = runner(folder)
    assert run.cursor.unread() == set()
    theirs = transformers_logits(folder)
    assert_close(run.step([(0, 0, TOKENS)])[0], theirs)
    assert theirs.argmax(-1).unique().numel() > LENGTH // 4, "a model that says one thing proves little"


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_equals_transformers(
    name: str, random_checkpoint: Callable[..., Path], runner: Callable[..., Any]
) -> None:
    kind, changes = VARIANTS[name]
    folder = random_checkpoint(kind, **changes)
    run = runner(folder)
    assert run.cursor.unread() == set()
    assert_close(run.step([(0, 0, TOKENS)])[0], transformers_logits(folder))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("name", NAMES)
def test_the_road_does_not_change_a_bit(
    name: str, dtype: torch.dtype, tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]
) -> None:
    """In chunks, beside others, from other blocks, on KV that others left behind."""
    run = runner(tiny_checkpoint(name), dtype)
    whole = run.step([(0, 0, TOKENS)])[0]
    assert whole.dtype == torch.float32
    for chunk in (1, 7, 64):
        run.forget(seed=chunk)
        pieces = [run.step([(3, at, TOKENS[at : at + chunk])])[0] for at in range(0, LENGTH, chunk)]
        assert torch.equal(torch.cat(pieces), whole)

    # KV of the last run stays where it is: sequence 3 goes on among strangers.
    company = [(5, 0, TOKENS[40:52]), (6, 0, TOKENS[:1]), (1, 0, TOKENS[::-1][:70])]
    last = TOKENS[-1:]
    assert torch.equal(run.step([*company, (3, LENGTH - 1, last)])[3], whole[-1:])
    assert torch.equal(run.step([(3, LENGTH - 9, TOKENS[-9:]), (6, 1, TOKENS[1:2]), *company[:1]])[0], whole[-9:])
    decode = run.step([(6, 2, TOKENS[2:3]), (3, LENGTH - 1, last), (5, 12, TOKENS[52:53]), (1, 70, TOKENS[7:8])])
    assert torch.equal(decode[0], whole[2:3])
    assert torch.equal(decode[1], whole[-1:])


@pytest.mark.parametrize("num_threads", (2, 3))
def test_the_law_holds_among_threads(
    num_threads: int, tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]
) -> None:
    """Three do not share rows evenly: where one thread's part ends must not show."""
    torch.set_num_threads(num_threads)
    run = runner(tiny_checkpoint("llama"))
    whole = run.step([(0, 0, TOKENS), (1, 0, TOKENS)])
    assert torch.equal(*whole)
    pieces = [run.step([(2, at, TOKENS[at : at + 50])])[0] for at in range(0, LENGTH, 50)]
    assert torch.equal(torch.cat(pieces), whole[0])
    assert torch.equal(run.step([(2, LENGTH - 1, TOKENS[-1:])])[0], whole[0][-1:])


def test_bfloat16_is_near(tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]) -> None:
    for name in ("llama", "gemma3"):
        folder = tiny_checkpoint(name)
        theirs = transformers_logits(folder)
        ours = runner(folder, torch.bfloat16).step([(0, 0, TOKENS)])[0]
        assert float((ours - theirs).norm() / theirs.norm()) < 0.1


def test_kv_specs_say_what_is_stored(tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]) -> None:
    model = runner(tiny_checkpoint("gemma3")).model
    assert [spec.sliding_window for spec in model.kv_specs] == [20, 20, None, 20]
    assert {(spec.num_kv_heads, spec.head_dim) for spec in model.kv_specs} == {(2, 16)}
    assert model.vocab_size == 384


def older_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """As configs were written before rope_parameters."""
    scaling = dict(config["rope_parameters"])
    older = {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": {"type": scaling.pop("rope_type"), **scaling}}
    return {key: value for key, value in config.items() if key != "rope_parameters"} | older


def test_older_config_and_checkpoint(tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]) -> None:
    """rope_scaling beside rope_theta; stored inverse frequencies, and a copy of a tied head."""
    folder = tiny_checkpoint("llama_rope3")

    def with_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        inv_freq = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(3)}
        return tensors | inv_freq | {"lm_head.weight": tensors["model.embed_tokens.weight"]}

    older = runner(folder, config=older_spelling, tensors=with_copies)
    assert older.cursor.unread() == set()
    assert torch.equal(older.step([(0, 0, TOKENS)])[0], runner(folder).step([(0, 0, TOKENS)])[0])


def test_older_gemma3_config(tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]) -> None:
    """A pattern in place of layer types, and two thetas in place of nested rope parameters."""

    def older(config: dict[str, Any]) -> dict[str, Any]:
        gone = ("rope_parameters", "layer_types", "hidden_activation", "query_pre_attn_scalar")
        kept = {key: value for key, value in config.items() if key not in gone}
        return kept | {"sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 1e4}

    def newer(config: dict[str, Any]) -> dict[str, Any]:
        types = ["sliding_attention", "full_attention"] * 2
        return config | {"layer_types": types, "query_pre_attn_scalar": 256}

    folder = tiny_checkpoint("gemma3")
    results = [runner(folder, config=spelling).step([(0, 0, TOKENS)])[0] for spelling in (older, newer)]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("body", "head", "tower"),
    [("language_model.model.", "language_model.", ""), ("model.language_model.", "", "model.")],
)
def test_multimodal_gemma3(
    body: str, head: str, tower: str, tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]
) -> None:
    """Its text half, under the older and the newer names; its vision tower is known and not read."""
    folder = tiny_checkpoint("gemma3")

    def wrapped(config: dict[str, Any]) -> dict[str, Any]:
        return {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}

    def beside_a_tower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {
            body + name.removeprefix("model.") if name.startswith("model.") else head + name: tensor
            for name, tensor in tensors.items()
        }
        vision = ("vision_tower.vision_model.post_layernorm.weight", "multi_modal_projector.mm_soft_emb_norm.weight")
        return moved | {tower + name: torch.zeros(1) for name in vision}

    run = runner(folder, config=wrapped, tensors=beside_a_tower)
    assert run.cursor.unread() == set()
    assert torch.equal(run.step([(0, 0, TOKENS)])[0], runner(folder).step([(0, 0, TOKENS)])[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("vocab_size", True),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 2.5),
        ("num_hidden_layers", 2**40),
        ("hidden_size", 10**400),
        ("rms_norm_eps", 10**400),
        ("num_key_value_heads", 4),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", float("nan")),
        ("attention_bias", "yes"),
        ("rope_parameters", [1]),
        ("architectures", None),
        ("architectures", "LlamaForCausalLM"),
    ],
)
def test_a_bad_field_is_named(
    key: str, value: object, tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]
) -> None:
    with pytest.raises(CorruptCheckpoint, match=key):
        runner(tiny_checkpoint("llama"), config=lambda config: config | {key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "LlamaForCausalLM, MistralForCausalLM"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": []}}, "longrope"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}}, "full_attention"),
        ({"hidden_act": "relu"}, "relu"),
    ],
)
def test_what_is_not_implemented_is_refused(
    changes: dict[str, Any], message: str, tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        runner(tiny_checkpoint("llama"), config=lambda config: config | changes)


def test_an_unexpected_tensor_is_left_unread(
    tiny_checkpoint: Callable[[str], Path], runner: Callable[..., Any]
) -> None:
    """A bias that the config does not speak of is not ignored: loading reports it."""
    bias = "model.layers.0.self_attn.q_proj.bias"
    run = runner(tiny_checkpoint("llama"), tensors=lambda tensors: tensors | {bias: torch.zeros(96)})
    assert run.cursor.unread() == {bias}
