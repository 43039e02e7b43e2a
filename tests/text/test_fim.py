"""Fill in the middle: each family's marks, in its order, around texts that are tokenized as if the file went on."""

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.core.errors import Unsupported
from quire.text.fim import FillInMiddle, OtherFile
from quire.text.tokenizer import Tokenizer

BEFORE, AFTER = "def add(a, b):\n    return", "\n\nprint(add(1, 2))\n"


def with_tokens(tokenizer: Tokenizer, *tokens: str) -> Tokenizer:
    backend = Backend.from_str(tokenizer._backend.to_str())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return Tokenizer(backend, tokenizer.roles)


@pytest.mark.parametrize(
    ("tokens", "order", "end"),
    [
        (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "{0}B{1}A{2}", "<|endoftext|>"),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"), "{0}B{1}A{2}", "<fim_pad>"),
        (("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), "{0}B{1}A{2}", "<|endoftext|>"),
        (("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), "{0}B{1}A{2}", "▁<EOT>"),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), "{0}B{1}A{2}", "<｜fim▁end｜>"),
        (("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"), "{0}B{1}A{2}", "<|code_prefix|>"),
        (("[PREFIX]", "[SUFFIX]"), "{1}A{0}B", "[PREFIX]"),
    ],
)
def test_every_family_has_its_marks_in_its_order(byte_level: Tokenizer, tokens, order: str, end: str) -> None:
    tokenizer = with_tokens(byte_level, *tokens)
    fim = FillInMiddle.of(tokenizer)
    text = tokenizer.decode(fim.prompt(BEFORE, AFTER), skip_special_tokens=False)
    assert text == order.format(*tokens).replace("A", AFTER, 1).replace("B", BEFORE, 1)
    assert tokenizer.token_to_id(end) in fim.end_ids
    assert {tokenizer.token_to_id(token) for token in tokens} <= set(fim.end_ids)


def test_a_tokenizer_without_marks_says_so(byte_level: Tokenizer) -> None:
    with pytest.raises(Unsupported, match="no tokens to fill in the middle"):
        FillInMiddle.of(byte_level)


def test_half_of_a_family_is_none(byte_level: Tokenizer) -> None:
    with pytest.raises(Unsupported):
        FillInMiddle.of(with_tokens(byte_level, "<fim_prefix>", "<fim_suffix>"))


def test_other_files_are_marked_where_there_are_marks(byte_level: Tokenizer) -> None:
    qwen = with_tokens(
        byte_level, "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"
    )
    others = [OtherFile("a.py", "x = 1"), OtherFile("b.py", "y = 2")]
    ids = FillInMiddle.of(qwen).prompt("p", "s", begun="m", others=others)
    assert qwen.decode(ids, skip_special_tokens=False) == (
        "<|repo_name|>repository\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\ny = 2\n<|file_sep|>filename\n"
        "<|fim_prefix|>p<|fim_suffix|>s<|fim_middle|>m"
    )
    plain = with_tokens(byte_level, "<fim-prefix>", "<fim-suffix>", "<fim-middle>")
    ids = FillInMiddle.of(plain).prompt("p", "s", others=others)
    assert plain.decode(ids, skip_special_tokens=False) == "x = 1\ny = 2\n<fim-prefix>p<fim-suffix>s<fim-middle>"


def test_a_text_that_goes_on_gets_no_artificial_space(sentencepiece_tokenizer: Tokenizer) -> None:
    tokenizer = with_tokens(sentencepiece_tokenizer, "▁<PRE>", "▁<SUF>", "▁<MID>")
    ids = FillInMiddle.of(tokenizer).prompt("return", "sum")
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<PRE> return <SUF>sum <MID>"  # ▁ is a space
    assert "▁sum" not in [tokenizer.id_to_token(token) for token in ids]


def test_token_ids_may_stand_before_the_gap(byte_level: Tokenizer) -> None:
    tokenizer = with_tokens(byte_level, "<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    fim = FillInMiddle.of(tokenizer)
    assert fim.prompt(tokenizer.encode(BEFORE, False), AFTER) == fim.prompt(BEFORE, AFTER)


def test_texts_that_begin_with_a_mark_keep_it(byte_level: Tokenizer) -> None:
    from quire.text.backend import frame

    tokenizer = with_tokens(byte_level, "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<s>")
    frame(tokenizer._backend, "<s>", "<|im_end|>")
    framed = Tokenizer(tokenizer._backend, {"bos_token": "<s>", "eos_token": "<|im_end|>"})
    fim = FillInMiddle.of(framed)
    assert framed.decode(fim.prompt("p", "s"), False) == "<s><fim_prefix>p<fim_suffix>s<fim_middle>"
    assert framed.decode(fim.prompt("p", "s", add_special_tokens=False), False).startswith("<fim_prefix>")
