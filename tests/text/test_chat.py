"""Chat templates render what transformers renders, and no template or message can hold a thread for long."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quire.core.errors import ConfigError, InvalidRequest, Unsupported, UnsupportedModel
from quire.text.chat import ChatTemplate, load_template

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA3 = """
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}<|eot_id|>
{%- for message in messages %}
    {%- if message.role == 'tool' or message.role == 'ipython' %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif 'tool_calls' in message %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] in ["user", "assistant"] %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {% generation %}{{- " " + message["content"] + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and reasoning_content %}
            {{- '<|im_start|>assistant\\n<think>\\n' ~ reasoning_content.strip('\\n') ~ '\\n</think>\\n\\n' ~ content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

FEATURES = """{%- macro show(text, times=2) -%}
    {%- for i in range(times) %}[{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}:{{ text }}]{% endfor -%}
{%- endmacro -%}
{%- for message in messages -%}
    {{ show(message.content, times=3) }}{{ "%s|%d" % (message.role, 7) }}{{ '%05.1f' | format(3.14159) }}
    {{ message.content.replace('a', 'bb') | upper | replace('B', 'c', 1) }}
    {{ message | items | list | length }} {{ [1, 2] + [3] }} {{ 2 ** 10 * 3 }} {{ '-' * 5 }} {{ none }} {{ missing }}
    {%- set block %}<{{ message.role ~ 1 ~ none }}>{% endset %}{{ block }}
    {%- for key, value in message.items() if key != 'role' %}{{ key }}={{ value | tojson }}{% else %}none{% endfor %}
    {{ messages | map(attribute='role') | join(', ') }} {{ ', '.join(['x', 'y']) }}
    {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 'l1\\nl2' | indent(4) }}
    {%- if loop.index == 2 %}{% continue %}{% endif %};
{%- endfor -%}
{{ messages[-1].content.split()[-1] | capitalize }}
{{ {'b': 1, 'a': [1, 2.5, true, none]} | tojson(sort_keys=true) }}"""

TALK = [
    {"role": "system", "content": "  Be brief & <kind>. "},
    {"role": "user", "content": 'Was ist das, "große" Frage?\n\n'},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nEs ist 42 月 😀."},
    {"role": "user", "content": "  and now?  "},
]
TOOL_TALK = [
    {"role": "user", "content": "Weather in Köln?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "id": "a1", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}
        ],
    },
    {"role": "tool", "content": '{"c": 11}'},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "a": "<b>&'é"}}}]
TEMPLATES = dict(chatml=CHATML, llama3=LLAMA3, mistral=MISTRAL, gemma=GEMMA, qwen=QWEN, features=FEATURES)


def theirs(source: str, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    rendered, _ = render_jinja_template([messages], chat_template=source, **kwargs)
    return rendered[0]


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_render_as_transformers_renders_them(name: str, begins: bool) -> None:
    template = ChatTemplate(TEMPLATES[name], bos_token="<s>", eos_token="</s>")
    for messages in (TALK, TALK[1:2], TALK[:2], TALK[1:]):
        wanted = theirs(TEMPLATES[name], messages, add_generation_prompt=begins, bos_token="<s>", eos_token="</s>")
        assert template.render(messages, add_generation_prompt=begins) == wanted


@pytest.mark.parametrize("name", ["llama3", "qwen"])
def test_tools_render_as_transformers_renders_them(name: str) -> None:
    template = ChatTemplate(TEMPLATES[name], bos_token="<s>", eos_token="</s>")
    wanted = theirs(
        TEMPLATES[name], TOOL_TALK, tools=TOOLS, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert template.render(TOOL_TALK, tools=TOOLS) == wanted
    as_text = [dict(message) for message in TOOL_TALK]
    function = {"name": "weather", "arguments": '{"city": "K\\u00f6ln", "days": 2}'}
    as_text[1]["tool_calls"] = [{"type": "function", "id": "a1", "function": function}]
    assert template.render(as_text, tools=TOOLS) == wanted


HARMONY = """{%- for message in messages %}
    {%- if message.tool_calls and message.content and message.thinking %}{{ raise_exception('one of them') }}{% endif %}
    {%- if message.thinking or message.tool_calls and message.content %}
        {{- '<|channel|>analysis<|message|>' ~ (message.thinking or message.content) ~ '<|end|>' }}
    {%- endif %}
{%- endfor %}"""


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_there_under_the_name_that_a_template_reads(name: str) -> None:
    template = ChatTemplate(HARMONY, bos_token=None, eos_token=None)
    messages = [{**TOOL_TALK[1], name: "hm"}]
    wanted = theirs(HARMONY, messages)
    assert template.render(messages) == wanted == "<|channel|>analysis<|message|>hm<|end|>"


def test_harmony_has_one_place_for_what_is_said_and_thought_beside_a_call() -> None:
    template = ChatTemplate(HARMONY, bos_token=None, eos_token=None)
    messages = [{**TOOL_TALK[1], "content": "Let me see.", "reasoning_content": "hm"}]
    assert template.render(messages) == "<|channel|>analysis<|message|>hm\nLet me see.<|end|>"


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "qwen", "mistral"])
@pytest.mark.parametrize("content", ["So far", "  spaces around  ", "once once", "{{ not }} jinja"])
def test_a_message_can_be_continued(name: str, content: str) -> None:
    template = ChatTemplate(TEMPLATES[name], bos_token="<s>", eos_token="</s>")
    messages = [{"role": "user", "content": "once"}, {"role": "assistant", "content": content}]
    wanted = theirs(TEMPLATES[name], messages, continue_final_message=True, bos_token="<s>", eos_token="</s>")
    assert template.render(messages, add_generation_prompt=False, continue_final_message=True) == wanted


def test_missing_tokens_are_undefined() -> None:
    source = "{{ bos_token }}|{{ eos_token is defined }}"
    assert ChatTemplate(source, bos_token=None, eos_token=None).render([]) == "|False"
    assert ChatTemplate(source, bos_token="<s>", eos_token="").render([]) == "<s>|False"


def test_variables_reach_the_template() -> None:
    template = ChatTemplate(QWEN, bos_token=None, eos_token=None)
    assert "<think>\n\n</think>" in template.render(TALK[1:2], variables={"enable_thinking": False})
    assert "enable_thinking" in template.variables
    assert "date_string" not in template.variables


@pytest.mark.parametrize(
    "name",
    [
        "bos_token",
        "raise_exception",
        "range",
        "namespace",
        "strftime_now",
        "__class__",
        "not a name",
        "self",
        "messages",
        "tools",
    ],
)
def test_the_servers_own_names_cannot_be_set(name: str) -> None:
    template = ChatTemplate(CHATML, bos_token=None, eos_token=None)
    with pytest.raises(InvalidRequest, match="only the server") as caught:
        template.render(TALK, variables={name: "x"})
    assert caught.value.param == "$.chat_template_kwargs"


# --- what a message's content is ------------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
VIA_MACRO = (
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for item in content %}"
    "{{ item.text }};{% endfor %}{% endif %}{% endmacro %}"
    "{% for message in messages %}{{ show(message.content) }}{% endfor %}"
)
VIA_SET = (
    "{% for m in messages %}{% set c = m['content'] %}{% for part in c %}{{ part['text'] }};{% endfor %}{% endfor %}"
)
SPLITS = "{% for m in messages %}{% for word in m.content.split() %}{{ word }},{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "of_text", "of_parts"),
    [
        (CHATML.split("{% if loop", 1)[0] + "{{ message.content }}{% endfor %}", "a b", "one\ntwo"),
        (VIA_MACRO, "a b", "one;two;"),
        (VIA_SET, "a b;", "one;two;"),
        (SPLITS, "a,b,", "one,two,"),
    ],
)
def test_content_comes_as_the_template_expects_it(source: str, of_text: str, of_parts: str) -> None:
    template = ChatTemplate(source, bos_token=None, eos_token=None)
    assert template.render([{"role": "user", "content": "a b"}]) == of_text
    assert template.render([{"role": "user", "content": PARTS}]) == of_parts


def test_content_that_is_missing_is_empty() -> None:
    template = ChatTemplate("{{ messages[0].content }}!", bos_token=None, eos_token=None)
    assert template.render([{"role": "assistant", "content": None}]) == "!"


@pytest.mark.parametrize(
    ("messages", "error", "param"),
    [
        ([{"content": "x"}], InvalidRequest, "$.messages[0]"),
        (["x"], InvalidRequest, "$.messages[0]"),
        ([{"role": "user", "content": 7}], InvalidRequest, "$.messages[0].content"),
        (
            [TALK[1], {"role": "user", "content": [PARTS[0], {"type": "image_url"}]}],
            Unsupported,
            "$.messages[1].content[1].type",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], InvalidRequest, "$.messages[0].content[0].text"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            InvalidRequest,
            "$.messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_bad_messages_are_named(messages: list[Any], error: type[InvalidRequest], param: str) -> None:
    with pytest.raises(error) as caught:
        ChatTemplate(CHATML, bos_token=None, eos_token=None).render(messages)
    assert caught.value.param == param


def test_what_a_template_refuses_is_the_clients_error() -> None:
    template = ChatTemplate(MISTRAL, bos_token="<s>", eos_token="</s>")
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        template.render([TALK[1], TALK[1]])
    with pytest.raises(InvalidRequest, match="cannot render"):
        ChatTemplate("{{ messages[0].content + 1 }}", bos_token=None, eos_token=None).render(TALK)
    with pytest.raises(InvalidRequest, match="leaves"):
        ChatTemplate("fixed", bos_token=None, eos_token=None).render(
            TALK, add_generation_prompt=False, continue_final_message=True
        )
    with pytest.raises(InvalidRequest, match="either continued or begun"):
        template.render(TALK, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="needs a message"):
        template.render([], add_generation_prompt=False, continue_final_message=True)


# --- templates that are broken or hostile ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ x | nofilter }}", "{% include 'a' ", "{{ x is notest }}", "x" * 10**6 + "y"]
)
def test_invalid_templates_are_refused(source: str) -> None:
    with pytest.raises(UnsupportedModel, match="chat template"):
        ChatTemplate(source, bos_token=None, eos_token=None).compile()


LOOP = "{% for a in range(100000) %}"
HOSTILE = {
    "nested ranges": LOOP * 3 + "{% endfor %}" * 3,
    "nested lists": "{% set r = range(100000)|list %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
    "output": LOOP * 2 + "{{ messages[0].content }}{% endfor %}{% endfor %}",
    "static output": "{% set x %}" + LOOP * 2 + "0123456789" * 20 + "{% endfor %}{% endfor %}{% endset %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "doubling calls": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [1] recursive %}" + "{{ loop(range(99999)) }}" * 2 + "{% endfor %}",
    "doubling text": "{% set n = namespace(s='xxxxxxxx') %}" + LOOP + "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling sum": "{% set n = namespace(s='xxxxxxxx') %}" + LOOP + "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling list": "{% set n = namespace(s=[1, 2]) %}" + LOOP + "{% set n.s = n.s + n.s %}{% endfor %}",
    "product": "{{ 'x' * 10000000000 }}",
    "list product": "{{ ([1] * 10000000000) | length }}",
    "power": "{{ 10 ** 10000000 }}",
    "squares": "{% set n = namespace(s=99) %}" + LOOP + "{% set n.s = n.s * n.s %}{% endfor %}",
    "format": "{{ '%10000000000d' % 1 }}",
    "format filter": "{{ '%*d' | format(10000000000, 1) }}",
    "format method": "{{ '{:10000000000d}'.format(1) }}",
    "nested format": "{{ '{:{w}d}'.format(1, w=10000000000) }}",
    "centre": "{{ 'x'.center(10000000000) }}",
    "indent": "{{ 'x\\ny' | indent(10000000000) }}",
    "json indent": "{{ [1] | tojson(indent=10000000000) }}",
    "replace": "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "replace filter": "{% set s = 'a' * 1000000 %}{{ s | replace('a', s) }}",
    "join": "{{ ('a' * 1000000).join(range(100000)) }}",
    "join filter": "{{ range(100000) | join('a' * 1000000) }}",
    "round": "{{ 1.5 | round(10000000000, 'ceil') }}",
    "dunder": "{{ ''.__class__.__mro__ }}",
    "subclasses": "{{ (''|attr('__class__')) }}",
    "globals": "{{ raise_exception.__globals__.x }}",
    "mutation": "{{ messages.append(1) }}",
    "namespace dunder": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped_soon(name: str) -> None:
    template = ChatTemplate(HOSTILE[name], bos_token=None, eos_token=None, max_chars=4_000_000, max_time_s=0.3)
    start = time.thread_time()
    with pytest.raises((InvalidRequest, UnsupportedModel)):
        template.render(TALK)
    assert time.thread_time() - start < 2


def test_a_long_honest_conversation_renders() -> None:
    messages = [{"role": role, "content": "word " * 200} for role in ("user", "assistant")] * 2000
    template = ChatTemplate(CHATML, bos_token=None, eos_token=None)
    assert template.render(messages).count("<|im_start|>") == 4002


def test_threads_render_at_once() -> None:
    template = ChatTemplate(QWEN, bos_token=None, eos_token=None)
    wanted = template.render(TALK)
    seen: list[str] = []

    def render() -> None:
        for _ in range(20):
            seen.append(template.render(TALK))

    threads = [threading.Thread(target=render) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [wanted] * 80


def test_templates_load_from_text_and_files(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(CHATML, encoding="utf-8")
    assert load_template(str(path)) == CHATML
    assert load_template("{{ messages }}") == "{{ messages }}"
    with pytest.raises(ConfigError, match="neither Jinja text nor a file"):
        load_template(str(tmp_path / "missing.jinja"))
