"""Rules that a reader relies on, held by looking at the syntax trees."""

import ast
from collections.abc import Iterator
from typing import Any

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_METHODS = 25

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "transformers", "gguf"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.load", "recv_pyobj", "send_pyobj", "yaml.load", "os.system"}
TEMPLATE_FACTORY = "text/"
"""The room that may make a jinja2 environment; and then only a sandboxed one."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield (node.module or "").partition(".")[0]


def _public(body: list[ast.stmt]) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def _is_said_elsewhere(path: str, node: Definition, num_public: int) -> bool:
    """In the file's own docstring, in the route's summary, in the API's reference; or it is all name and types."""
    if num_public == 1 or path.startswith(("server/routes/", "server/schema/")):
        return True
    is_enum = isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases)
    return is_enum or (node.end_lineno is not None and node.end_lineno - node.lineno <= 3)


def test_nothing_that_runs_foreign_data_as_code(modules: list[Any]) -> None:
    found = []
    for module in modules:
        for node in module.nodes():
            found += [f"{module.path} imports {name}" for name in _imported(node) if name in FORBIDDEN_MODULES]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in FORBIDDEN_CALLS or called.rpartition(".")[2] in {"recv_pyobj", "send_pyobj"}:
                    found.append(f"{module.path}:{node.lineno} calls {called}")
                if any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords):
                    found.append(f"{module.path}:{node.lineno} starts a shell")
    assert not found


def test_templates_are_rendered_in_one_sandbox_only(modules: list[Any]) -> None:
    makers = []
    for module in modules:
        for node in module.nodes():
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in {"Environment", "NativeEnvironment", "SandboxedEnvironment"}:
                makers.append(f"{module.path}: {name} is not the immutable sandbox")
            elif name == "ImmutableSandboxedEnvironment":
                makers.append(module.path)
    assert len(set(makers)) <= 1 and all(path.startswith(TEMPLATE_FACTORY) for path in makers), makers


def test_every_file_says_what_it_is(modules: list[Any]) -> None:
    assert not [m.path for m in modules if m.text.strip() and not ast.get_docstring(m.tree)]


def test_everything_public_says_what_it_is(modules: list[Any]) -> None:
    silent = []
    for module in modules:
        public = list(_public(module.tree.body))
        for node in public:
            if not ast.get_docstring(node) and not _is_said_elsewhere(module.path, node, len(public)):
                silent.append(f"{module.path}:{node.lineno} {node.name}")
    assert not silent, "\n".join(silent)


def test_files_and_functions_fit_a_reader(modules: list[Any]) -> None:
    large = []
    for module in modules:
        lines = module.text.count("\n")
        if lines > MAX_FILE_LINES:
            large.append(f"{module.path}: {lines} lines")
        for node in module.nodes():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    large.append(f"{module.path}:{node.lineno} {node.name}: {length} lines")
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) for item in node.body)
                if methods > MAX_METHODS:
                    large.append(f"{module.path}:{node.lineno} {node.name}: {methods} methods")
    assert not large, "\n".join(large)


def test_no_hidden_state_and_no_leftovers(modules: list[Any]) -> None:
    found = []
    for module in modules:
        found += [f"{module.path}:{node.lineno} global" for node in module.nodes() if isinstance(node, ast.Global)]
        for number, line in enumerate(module.text.splitlines(), start=1):
            if any(word in line for word in ("TODO", "FIXME", "XXX")):
                found.append(f"{module.path}:{number} {line.strip()}")
        if "utils" in module.path:
            found.append(f"{module.path}: a helper lives with its user")
    assert not found
