"""Every name by which a client may ask for a shape, and what is wrong with one in the client's own words."""

import pytest

pytestmark = pytest.mark.anyio

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TAG = {"type": "structural_tag", "format": {"type": "const_string", "value": "x"}}


def body(path, **extra):
    return {**({"messages": HI} if path == CHAT else {"prompt": "hi"}), "max_tokens": 1, **extra}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("extra", "shape", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json", SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, "json", SCHEMA),
        ({"response_format": TAG}, "structural_tag", TAG),
        ({"structured_outputs": {"regex": "a+", "json": None}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ("a", "b")),
        ({"guided_json": SCHEMA}, "json", SCHEMA),
        ({"guided_choice": ["a", "b"], "guided_regex": ""}, "choice", ("a", "b")),
        ({"guided_grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"json_schema": SCHEMA}, "json", SCHEMA),
        ({"regex": "a+"}, "regex", "a+"),
        ({"ebnf": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
    ],
)
async def test_a_shape_reaches_the_engine(client, sampled, path, extra, shape, value):
    assert (await client.post(path, json=body(path, **extra))).status_code == 200
    wanted = sampled().structured_outputs
    assert (wanted.shape, getattr(wanted, shape)) == (shape, value)


@pytest.mark.parametrize("extra", [{"response_format": {"type": "text"}}, {"response_format": None}, {"regex": ""}])
async def test_no_shape_is_no_grammar(client, llm, sampled, extra):
    assert (await client.post(CHAT, json=body(CHAT, **extra))).status_code == 200
    assert sampled().structured_outputs is None and llm.requests[-1].grammar is None


async def test_only_a_strict_schema_is_held_to_all_of_it(client, sampled):
    for strict in (True, False, None):
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": strict}}
        await client.post(CHAT, json=body(CHAT, response_format=asked))
        assert sampled().structured_outputs.is_lenient == (strict is not True)


def strict(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"response_format": {"type": "xml"}}, "$.response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "$.response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "$.response_format.json_schema.name",
        ),
        ({"response_format": strict(1)}, "$.response_format.json_schema.schema"),
        (
            {"response_format": strict({"type": "object", "properties": {"a": {"type": "what"}}})},
            "$.response_format.json_schema.schema.properties.a.type",
        ),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "$.structured_outputs"),
        ({"structured_outputs": {"xml": "a"}}, "$.structured_outputs.xml"),
        ({"structured_outputs": {"regex": 5}}, "$.structured_outputs"),
        ({"guided_regex": "(a"}, "$.guided_regex"),
        ({"guided_choice": [1]}, "$.guided_choice[0]"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, "$.ebnf"),
    ],
)
async def test_what_is_wrong_is_named_as_the_client_named_it(client, extra, param):
    for path in (CHAT, COMPLETIONS):
        answer = await client.post(path, json=body(path, **extra))
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param), error
        assert "structured_outputs" not in error["message"] or "structured_outputs" in extra
