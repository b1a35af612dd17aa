"""Stand-in for Snakemake's lists of files, some of which have names."""

from __future__ import annotations


class Namelist(list):
    """A list whose items, or sublists, can also be read by name."""

    def __init__(self, items=(), **named):
        super().__init__(items)
        for name, value in named.items():
            setattr(self, name, value)
            self.extend(value if isinstance(value, list | tuple) else [value])
