"""How byte-level vocabularies cut text into words before merging, by the name GGUF files give it (tokenizer.ggml.pre).

The patterns are part of the models: each is what the model's own tokenizer.json holds, so a table entry is a fact about
a family, not a choice of ours. A name that is not here is refused, since a wrong cut gives plausible but wrong tokens.
"""

from typing import NamedTuple

from tokenizers import Regex, normalizers, pre_tokenizers

from quire.core.errors import UnsupportedModel

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_QWEN35 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*" + r"|\p{N}" + _CASED_TAIL
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    + r"|\p{N}{1,3}"
    + _CASED_TAIL
)
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PreTokenization(NamedTuple):
    """What happens to text before the merges. ``patterns`` cut one after the other, each inside the last one's cuts."""

    patterns: tuple[str, ...]
    nfc: bool = False
    """Text is first brought into Unicode's normal form C."""
    ignore_merges: bool = False
    """A word that is a token is taken whole, whatever the merges say."""
    add_bos: bool = False
    """Where the file does not say."""

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_WORDS = PreTokenization((_GPT2,))
_DIGITS_THEN_WORDS = PreTokenization((r"\p{N}", _GPT2))
_LLAMA_BPE = PreTokenization((_LLAMA3,), ignore_merges=True, add_bos=True)

_BY_NAME: dict[str, PreTokenization] = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "jais", "trillion", "granite-docling"), _WORDS),
    **dict.fromkeys(("mpt", "olmo"), _WORDS._replace(nfc=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _DIGITS_THEN_WORDS),
    "command-r": _DIGITS_THEN_WORDS._replace(nfc=True),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "lfm2"), _LLAMA_BPE),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenization((_LLAMA3,))),
    "qwen2": PreTokenization((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenization((_QWEN2,)),
    "qwen35": PreTokenization((_QWEN35,), nfc=True),
    "tekken": PreTokenization((_TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), PreTokenization((_GPT4O,))),
    "deepseek-v3": PreTokenization((r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK3_WORDS)),
    "deepseek-coder": PreTokenization((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")),
}


def pre_tokenization(name: str) -> PreTokenization:
    """What a name stands for; raises UnsupportedModel for one that is not known."""
    found = _BY_NAME.get(name)
    if found is None:
        raise UnsupportedModel(
            f"The vocabulary wants the pre-tokenizer {name!r} (tokenizer.ggml.pre), which is not known here: "
            f"{', '.join(sorted(_BY_NAME))} are. Give --tokenizer with a folder that has the model's tokenizer.json."
        )
    return found
