"""GBNF becomes Lark: samples of the kinds that people write, and random grammars against a slow and simple reader."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.errors import InvalidRequest
from quire.text.grammar.gbnf import Either, Node, OneOf, Repeat, Rule, Sequence, Text
from quire.text.grammar.gbnf_lark import gbnf_piece

ARITHMETIC = r"""
# Sums, each on its own line. Whitespace may be anywhere, so a number must not take the line's end with it.
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
LIST = r"""
root ::= item+
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
CHESS = r"""
# A few moves in algebraic notation.
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")*
move    ::= (pawn | nonpawn | castle) [+#]?
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBQR])?   # with promotion
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
castle  ::= "O-O" "-O"?
"""
UNICODE = r"""
root ::= jp-char+ ([ \t\n] jp-char+)* "\U0001F600"?
jp-char ::= hiragana | katakana | "\u30fc" | "\x41"
hiragana ::= [ぁ-ゟ]
katakana ::= [\u30A1-\u30FA]
"""
LISP = 'root ::= expr\nexpr ::= atom | "(" expr (" " expr)* ")"\natom ::= [a-z]+ | [0-9]+'
PALINDROME = 'root ::= "a" root "a" | "b" root "b" | "c"'
LEFT = 'root ::= root "+" n | n\nn ::= [0-9]+'
STATEMENTS = r"""
root ::= (statement ";" ws)+
statement ::= type name ("=" ws expr)? | name "=" ws expr | "return" ws1 expr
expr ::= name | [0-9]+ ws | "(" ws expr ")" ws | name "(" ws expr ("," ws expr)* ")" ws
type ::= ("int" | "float") ws1
name ::= [a-z] [a-z0-9]* ws
ws ::= [ \n]*
ws1 ::= [ \n]+
"""
TRAILING = 'root ::= word+ "end" root?\nword ::= [a-z]+ " "'
QUERY = r"""
root ::= "select" ws1 cols ws "from" ws1 name (ws1 "where" ws1 cond)?
cols ::= name (ws "," ws name)*
cond ::= name ws "=" ws value | "(" ws cond ws ")" | cond ws1 ("and" | "or") ws1 cond
value ::= [0-9]+ | "'" [^']* "'"
name ::= [a-z]+
ws ::= " "*
ws1 ::= " "+
"""

SAMPLES = [
    (ARITHMETIC, ("x = 5\n", "a+b*(c -12) = 3 \n\nfoo=1\n", "1=1 \n \n"), ("x = 5", "= 5\n", "x = (1\n", "X = 1\n")),
    (
        JSON,
        ('{"a": 1}', '{"a":[1, 2.5e-1, "x\\n\\u00e9"], "b": {"c": null}}', "{}", '{"a": true}\n  '),
        ("[1]", '{"a": 01}', '{"a" 1}', '{"a": "\\x"}', "{", '{"a": 1,}'),
    ),
    (LIST, ("- milk\n", "- milk\n- bread and butter\n"), ("milk\n", "- milk", "- \n", "- a\n\n")),
    (
        CHESS,
        ("1. e4 e5\n", "1. e4 e5\n2. Nf3 Nc6\n3. O-O exd5+\n10. e8=Q# O-O-O\n"),
        ("1. e9 e5\n", "1. e4\n", "e4 e5\n", "1. e4 e5\n100. e4 e5\n"),
    ),
    (UNICODE, ("ひらがな", "カタカナー A😀", "あ"), ("B", "漢字", "ひ  ら", "")),
    (LISP, ("a", "(a (b 12) c)", "((a))"), ("()", "(a", "a b", "1a")),
    (PALINDROME, ("c", "abcba", "bbacabb"), ("ab", "abcab", "")),
    (LEFT, ("1", "1+22+333"), ("+1", "1+", "")),
    (
        STATEMENTS,
        ("int x = 5; ", "x = f(a, (b)) ;\nreturn x;", "float y;returned = 1;", "int i; int intx = i;"),
        ("int x y;", "return;", "x = ;", "x = 5"),
    ),
    (TRAILING, ("foo end", "foo bar endbaz end", "end end"), ("end", "foo  end", "foo bar")),
    (
        QUERY,
        ("select a from b", "select a , b  from t where x=1", "select a from b where (x = 'y z' ) and y=2  or z=3"),
        ("select from b", "select a from b where", "select a b from c"),
    ),
    (
        'root ::= "" | "a"{2,3} | [x-z-]{2} | "b"{2,} "!"?',
        ("", "aa", "aaa", "x-", "bb", "bbbb!"),
        ("a", "x", "b", "aaaa"),
    ),
    ('root ::= . .* "\\""', ('x"', 'x\ny""'), ('"', "x")),
    ("root ::= [^\\]a-c^]+ [\\[\\]]", ("d]", "xyz["), ("a]", "^]", "d")),
    ('root ::= a | b # one\n # two\nb ::= "b"\n\n\na ::=\n  "a" |\n  "A"', ("a", "A", "b"), ("c",)),
    ('root ::= ("a" | "ab") ("c" | "bc") "d"{,2}', ("ac", "abc", "abbcdd"), ("abcddd", "ad")),
    ('root ::= "tab\\tquote\\"slash\\\\" [\\n\\t"]', ('tab\tquote"slash\\\n',), ("tab",)),
    ("root ::= <|im_start|> [a-z]+ <|im_end|> !<|im_start|>", (), ("abc",)),
    ("root ::= <|im_start|> [a-z]+ <[0]>", ("<|im_start|>abc<|endoftext|>",), ("abc",)),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "accepted", "rejected"), SAMPLES)
def test_samples(check, grammar, accepted, rejected):
    check(accepted, rejected, grammar=grammar)


MALFORMED = [
    ('root ::= "a', "not closed"),
    ("root ::= [a", "not closed"),
    ('root ::= ("a"', "not closed"),
    ('root ::= "a")', "rule must begin"),
    ("root ::= missing", "no rule 'missing'"),
    ('start ::= "a"', "no rule named root"),
    ('root ::= "a"\nroot ::= "b"', "defined twice"),
    ("root ::= [z-a]", "backwards"),
    ('root ::= "a"{3,2}', "few to many"),
    ('root ::= "a"{}', "repetition is written"),
    ('root ::= "a"{2000000}', "1000000 times"),
    ('root ::= "\\q"', "escape"),
    ('root ::= "\\ud800"', "no character"),
    ('root ::= (= "a") "a"', "look-ahead"),
    ("root ::= <|no_such|>", "special token"),
    ('root ::= "a" & "b"', "'&' is not understood"),
    ('root ::= "a"**', "parentheses"),
    ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "64 deep"),
    ("root ::= root", "no answer"),
    ('root ::= "a"\n  b := "x"', "':' is not understood"),
]


@pytest.mark.parametrize(("grammar", "why"), MALFORMED)
def test_malformed(check, grammar, why):
    with pytest.raises(InvalidRequest, match=why) as refused:
        check(grammar=grammar)
    assert refused.value.param == "$.structured_outputs.grammar"


def test_position_is_told(check):
    with pytest.raises(InvalidRequest, match=r"line 2, column 9"):
        check(grammar='root ::= x\nx ::= "a\\q"')


def test_deepest_parentheses(check):
    check(("a",), ("b",), grammar="root ::= " + "(" * 64 + '"a"' + ")" * 64)
    check(("a", "x a", "qqa"), ("b",), grammar='root ::= "x " root | ' + '("q" root | ' * 60 + '"a"' + ")?" * 60)
    check(("a", "x a", "qq"), ("b",), grammar='root ::= "x " root | ' + '"q" (' * 60 + '"a"' + ")?" * 60 + '| "a"')


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + " ".join(f"r{i}" for i in range(4000)) + "".join(f'\nr{i} ::= r{i}? "a"' for i in range(4000)),
        "\n".join(f'r{i} ::= r{i + 1} | r{i + 1} "b"' for i in range(4000)) + '\nroot ::= r0\nr4000 ::= root? "a"',
        "root ::= " + '"a" ' * 60_000,
        "root ::= " + " | ".join(f'"{i}" root?' for i in range(12_000)),
    ],
)  # fmt: skip
def test_large(door, grammar):
    """Understood or refused; the test's time limit holds either way."""
    from quire.core.structured_outputs import StructuredOutputs

    try:
        door.check(StructuredOutputs(grammar=grammar))
    except InvalidRequest as refused:
        assert refused.param == "$.structured_outputs.grammar"


# --- random grammars ------------------------------------------------------------------------------------------------


def ends(rules: dict[str, Node], text: str) -> bool:
    """Whether ``root`` says the whole text, found by trying everything until nothing more is found."""
    known: dict[tuple[str, int], frozenset[int]] = {}

    def of(part: Node, at: int) -> frozenset[int]:
        match part:
            case Text(literal):
                return frozenset([at + len(literal)] if text.startswith(literal, at) else [])
            case OneOf(characters):
                code = ord(text[at]) if at < len(text) else -1
                return frozenset([at + 1] if any(low <= code <= high for low, high in characters.ranges) else [])
            case Rule(name):
                return known.setdefault((name, at), frozenset())
            case Sequence(parts):
                now = frozenset([at])
                for one in parts:
                    now = frozenset(end for start in now for end in of(one, start))
                return now
            case Either(parts):
                return frozenset(end for one in parts for end in of(one, at))
            case Repeat(one, least, most):
                now, found = frozenset([at]), frozenset([at] if least == 0 else [])
                for count in range(1, min(most if most is not None else 99, len(text) + least + 1) + 1):
                    now = frozenset(end for start in now for end in of(one, start))
                    found |= now if count >= least else frozenset()
                return found
        raise AssertionError

    of(Rule("root"), 0)
    while True:
        before = dict(known)
        for name, at in before:
            known[name, at] = known[name, at] | of(rules[name], at)
        if known == before:
            return len(text) in known["root", 0]


LEAVES = st.one_of(
    st.text("ab", min_size=1, max_size=2).map(Text),
    st.sampled_from(["a", "ab", "c"]).map(lambda chars: OneOf(gbnf_chars(chars))),
    st.sampled_from(["root", "x", "y"]).map(Rule),
)


def gbnf_chars(chars: str):
    from quire.text.grammar.characters import one_of

    return one_of(chars)


def larger(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        several.map(Sequence),
        several.map(Either),
        st.builds(Repeat, parts.filter(lambda part: not isinstance(part, Repeat)), st.integers(0, 1),
                  st.sampled_from([None, 1, 2])),
    )  # fmt: skip


NODES = st.recursive(LEAVES, larger, max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({"root": NODES, "x": NODES, "y": NODES}), st.lists(st.text("abc", max_size=5), max_size=6))
def test_nothing_is_accepted_that_the_grammar_does_not_say(is_match, rules, texts):
    piece = gbnf_piece(rules, "$")
    for text in texts:
        try:
            accepted = is_match(piece, text)
        except AssertionError:  # no answer can match it, or it loops through nothing
            return
        if accepted:
            assert ends(rules, text)


REGULAR = st.recursive(
    st.one_of(st.text("ab", min_size=1, max_size=2).map(Text), st.sampled_from(["a", "ab", "c"]).map(
        lambda chars: OneOf(gbnf_chars(chars)))), larger, max_leaves=5
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(REGULAR, REGULAR, REGULAR, st.lists(st.text("abc()", max_size=6), max_size=8))
def test_parts_around_recursion_are_exact(is_match, before, inside, after, texts):
    """A recursive rule between marks of its own: whatever stands before and behind it, both readers agree."""
    nested = Sequence((Text("("), before, Repeat(Rule("root"), 0, 1), after, Text(")"), inside))
    rules: dict[str, Node] = {"root": Sequence((before, nested, Repeat(after, 0, 1)))}
    piece = gbnf_piece(rules, "$")
    for text in texts:
        assert is_match(piece, text) == ends(rules, text)


@settings(max_examples=60, deadline=None)
@given(REGULAR, st.lists(st.text("abc", max_size=6), min_size=1, max_size=8))
def test_regular_grammars_are_exact(is_match, body, texts):
    piece = gbnf_piece({"root": body}, "$")
    for text in texts:
        assert is_match(piece, text) == ends({"root": body}, text)
