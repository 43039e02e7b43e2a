"""How much one grammar may cost, where it is checked and where it is run.

Both sides build matchers with ``parser_limits()``, so that what was accepted at the door compiles in the engine. These
limits bound a step of the lexer and of the parser. They do not bound a schema's translation into a grammar, which is
why a new grammar is first compiled in a process that can be ended (``trial``).

What a matcher may still cost as it runs, measured on one core with a vocabulary of 49,152: a mask takes under 0.1 ms
in the mean; up to 50 ms where a regex makes new lexer states at every step, until there are ``max_lexer_states``, at
about 2 KB each; up to 160 ms in a grammar so ambiguous that it keeps ``max_items_in_row`` alternatives open, after
hundreds of such tokens. So whoever runs matchers watches their time too, and ends a sequence whose masks stay slow. A
matcher that meets a limit is in its error state from then on.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

MAX_NESTING = 64
"""Of a schema, a structural tag, or a grammar's parentheses."""
MAX_TRIAL_CPU_S = 1.0
"""Processor time of a grammar's trial: it is compiled, and its first mask computed."""
MAX_TRIAL_BYTES = 512 * 2**20
"""Memory of a grammar's trial."""


def parser_limits() -> "LLParserLimits":
    """For every ``llguidance.LLMatcher`` made of a grammar of this room."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=300_000,
        step_lexer_fuel=100_000,
        max_lexer_states=50_000,
        max_items_in_row=2_000,
        step_max_items=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,
    )
