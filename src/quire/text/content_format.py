"""What a chat template expects a message's content to be: a string, a list of parts, or either.

Read off its syntax tree: a template that loops over a message's content takes parts; one that also asks whether
something is a string takes both. Content is followed through ``set`` and into the parameters of macros.
"""

from collections.abc import Iterator

from jinja2 import nodes


def reads_parts(tree: nodes.Template) -> bool:
    """Whether some loop goes over the content of a message."""
    aliases = _aliases(tree)
    return any(_is_content(loop.iter, aliases) for loop in tree.find_all(nodes.For))


def tests_for_strings(tree: nodes.Template) -> bool:
    """Whether ``is string`` occurs."""
    return any(test.name == "string" for test in tree.find_all(nodes.Test))


def _aliases(tree: nodes.Template) -> frozenset[str]:
    """Names that may stand for a message's content, to as many steps as there are."""
    aliases: frozenset[str] = frozenset()
    while True:
        found = aliases.union(_assigned(tree, aliases), _passed(tree, aliases))
        if found == aliases:
            return aliases
        aliases = found


def _assigned(tree: nodes.Template, aliases: frozenset[str]) -> Iterator[str]:
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, aliases):
            yield assign.target.name


def _passed(tree: nodes.Template, aliases: frozenset[str]) -> Iterator[str]:
    parameters = {macro.name: [argument.name for argument in macro.args] for macro in tree.find_all(nodes.Macro)}
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in parameters:
            names = parameters[call.node.name]
            yield from (name for name, value in zip(names, call.args, strict=False) if _is_content(value, aliases))
            yield from (argument.key for argument in call.kwargs if _is_content(argument.value, aliases))


def _is_content(node: nodes.Node | None, aliases: frozenset[str]) -> bool:
    while isinstance(node, nodes.Filter):
        node = node.node
    match node:
        case nodes.Name(name=name):
            return name in aliases
        case nodes.Getattr(attr="content") | nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.CondExpr(expr1=first, expr2=second):
            return _is_content(first, aliases) or _is_content(second, aliases)
    return False
