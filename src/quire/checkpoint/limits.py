"""Bounds on what a stranger's configuration may make us do: no model has as many."""

MAX_LAYERS = 4096
MAX_EXPERTS = 4096
