"""Dialects are chosen by the names that users know, or by what a template teaches; families are not confused."""

import pytest

from quire.core.errors import ConfigError
from quire.text.dialects.dialect import Tool
from quire.text.dialects.events import Content, Reply
from quire.text.dialects.registry import choose

TEMPLATES = {
    "qwen 2.5": (
        "{%- if tools %}...<tools>...return a json object with name and arguments within <tool_call></tool_call>"
        ' XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>',
        "hermes",
        None,
    ),
    "qwen 3": (
        "{%- if tools %}<tool_call>\\n{\"name\": <function-name>}</tool_call>{{ content.split('</think>')[-1] }}"
        "{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}",
        "hermes",
        "think",
    ),
    "llama 3.1": (
        "{%- if builtin_tools %}{{ '<|python_tag|>' }}{%- endif %}{%- if tools is not none %}Respond in the format "
        '{"name": function name, "parameters": dictionary of argument name and its value}.',
        "llama3_json",
        None,
    ),
    "llama 3.2, pythonic": (
        "{%- if tools is not none %}If you decide to invoke any of the function(s), you MUST put it in the format of "
        "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]",
        "pythonic",
        None,
    ),
    "lfm 2": ("{%- if tools %}List of tools: <|tool_list_start|>[{{ tools }}]<|tool_list_end|>", "lfm2", None),
    "mistral": ("{%- if tools %}[AVAILABLE_TOOLS]...{{ '[TOOL_CALLS] [' }}", "mistral", None),
    "magistral": ("{%- if tools %}{{ '[TOOL_CALLS]' + name + '[ARGS]' }}[THINK]...[/THINK]", "mistral", "mistral"),
    "granite 3": (
        "{%- if tools %}respond only with <|tool_call|> followed by a JSON list of tools used. ... Write your thoughts "
        "after 'Here is my thought process:' and write your response after 'Here is my response:'",
        "granite",
        "granite",
    ),
    "granite 3.3": (
        "{%- if tools %}respond only with <|tool_call|> followed by a JSON list ... Write your thoughts between "
        "<think></think> and write your response between <response></response>",
        "granite",
        "granite3_3",
    ),
    "phi 4 mini": ("{%- if tools %}{{ '<|tool|>' + tools | tojson + '<|/tool|>' }}", "phi4_mini", None),
    "phi 4 mini, tools in a message": ("{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}", "hermes", None),
    "fire function": ("{%- for tool in tools %}generated as functools[{'name': ...}]", "phi4_mini", None),
    "jamba": ("{%- if tools %}{{ '<tool_calls>[' }}", "jamba", None),
    "nemotron nano": ("{%- if tools -%}<TOOLCALL>[...]</TOOLCALL>{{- '<think></think>' -}}", "nemotron_json", "think"),
    "lfm 2.5": ("{%- if tools -%}{{ 'List of tools: [' + tools | tojson + ']' }}", "lfm2", None),
    "xml behind the marker": ("{%- if tools -%}<tool_call>{function-name}<arg>{%- set x %}</tool_call>", "json", None),
    "tools that are a word": ("{{ 'Use tools: ' + message.tools }} {# tools #} and tools", "hermes", None),
    "qwen 3 coder": (
        "{%- if tools %}{{- '<tool_call>\\n<function=' + tool_call.name + '>\\n' }}{{- '<parameter=' + args_name + '>"
        "\\n' }}...",
        "qwen3_coder",
        None,
    ),
    "qwen 3.5": (
        "{%- if tools %}<tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>\\nvalue_1\\n"
        "</parameter>{{- '\\n<think>\\n' + reasoning_content + '\\n</think>\\n\\n' + content }}",
        "qwen3_coder",
        "think",
    ),
    "seed-oss": (
        "{%- set toolcall_begin_token = '<seed:tool_call>' -%}{%- if tools %}<function=f>\\n<parameter=k>v</parameter>"
        "{{ '<seed:think></seed:think>' }}",
        "seed_oss",
        "seed_oss",
    ),
    "glm 4.6": (
        "{%- if tools -%}<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}"
        "</arg_value>\n"
        "...\n</tool_call>{{ '\\n<think></think>' }}",
        "glm45",
        "think",
    ),
    "glm 4.7": (
        "{%- if tools -%}<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}...",
        "glm47",
        None,
    ),
    "deepseek v3, r1": (
        "{%- if tools %}...{% endif -%}"
        "{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + "
        "tool['function']['name'] + '\\n' + '```json' + '\\n' }}{% if '</think>' in content %}",
        "deepseek_v3",
        "think",
    ),
    "deepseek v3.1": (
        "{%- if tools %}...{% endif -%}{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] + "
        "'<｜tool▁sep｜>' }}{{'</think>'}}",
        "deepseek_v31",
        "think",
    ),
    "kimi k2": (
        "<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|><|tool_calls_section_begin|>"
        "<|tool_call_begin|>{{ formatted_id }}<|tool_call_argument_begin|>",
        "kimi_k2",
        None,
    ),
    "deepseek v3.1, without tools": (
        "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>' }}{{'</think>'}}",
        "hermes",
        "think",
    ),
    "kimi k2, first template": (
        "{% if tools -%}{{ '<|im_system|>tool_declare<|im_middle|>' -}}{{- tools | tojson -}}",
        "kimi_k2",
        None,
    ),
    "gpt-oss": (
        '{%- if tools -%}{{- "<|start|>assistant to=functions." + name + "<|channel|>commentary json<|message|>" }}',
        "harmony",
        "harmony",
    ),
    "functionary": (
        "{%- if tools %}<function=example_function_name>{{ tools }}</function>",
        "json",
        None,
    ),
    "seed": ("{%- if tools %}{{ tools }}{% endif %}<seed:think></seed:think>", "json", "seed_oss"),
    "tools in a way unknown": ("{%- if tools %}<<{{ tools }}>>", "json", None),
    "no tools": ("{{ messages[0].content }}", "hermes", None),
}


@pytest.mark.parametrize("model", TEMPLATES)
def test_templates_are_recognized(model: str) -> None:
    template, tools, reasoning = TEMPLATES[model]
    dialects = choose("auto", "auto", template)
    assert dialects.tools is not None and dialects.tools.name == tools
    assert (dialects.reasoning and dialects.reasoning.name) == reasoning


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        *(("hermes", "hermes"), ("qwen", "hermes"), ("qwen25", "hermes"), ("json", "json"), ("mistral", "mistral")),
        *(("llama3", "llama3_json"), ("llama3_json", "llama3_json"), ("llama4_json", "llama3_json")),
        *(("pythonic", "pythonic"), ("llama4_pythonic", "pythonic"), ("lfm2", "lfm2"), ("granite", "granite")),
        *(("qwen3_coder", "qwen3_coder"), ("qwen3_xml", "qwen3_coder"), ("glm45", "glm45"), ("glm47", "glm47")),
        *(("deepseek_v3", "deepseek_v3"), ("deepseek_v31", "deepseek_v31"), ("deepseekv31", "deepseek_v31")),
        *(("openai", "harmony"), ("gpt-oss", "harmony"), ("kimi_k2", "kimi_k2"), ("phi4_mini_json", "phi4_mini")),
    ],
)
def test_tool_dialects_are_found_by_other_servers_names(flag: str, name: str) -> None:
    tools = choose(flag, "none", "<tool_call>").tools
    assert tools is not None and tools.name == name


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        *(("qwen3", "think"), ("glm45", "think"), ("olmo3", "think"), ("deepseek_v3", "think"), ("granite", "granite")),
        *(("deepseek_r1", "deepseek_r1"), ("deepseek-r1", "deepseek_r1"), ("kimi_k2", "think"), ("kimi", "kimi")),
        *(("mistral", "mistral"), ("seed_oss", "seed_oss"), ("openai_gptoss", "harmony"), ("gpt-oss", "harmony")),
    ],
)
def test_reasoning_dialects_are_found_by_other_servers_names(flag: str, name: str) -> None:
    reasoning = choose("none", flag, None).reasoning
    assert reasoning is not None and reasoning.name == name


def test_unknown_names_are_refused_with_the_known() -> None:
    with pytest.raises(ConfigError, match=r"--tool-call-parser is 'hermès'.*auto, none, or one of .*hermes.*mistral"):
        choose("hermès", "none", None)
    with pytest.raises(ConfigError, match=r"--reasoning-parser is 'loud'.*auto, none, or one of .*qwen3"):
        choose("none", "loud", None)


def test_without_dialects_or_tools_all_is_content() -> None:
    text = '<think>x</think><tool_call>{"name": "now"}</tool_call>'
    nothing = choose("none", "none", "<tool_call></think>")
    assert nothing.markers == ()
    assert nothing.parser([Tool(name="now")], "").push(text) == [Content(text)]
    dialects = choose("hermes", "qwen3", None)
    assert dialects.markers == ("<tool_call>", "</tool_call>", "<think>", "</think>")
    parser = dialects.parser([], "")
    reply = Reply.of(parser.push(text) + parser.finish())
    assert reply == Reply('<tool_call>{"name": "now"}</tool_call>', "x")
    assert choose("auto", "auto", None).markers == ()
