"""Read YAML files with inheritance and `KEY=VALUE` arguments, validate them, write them. Nothing here is about vision.

Later sources override earlier ones: defaults of the records, base, file, arguments. `reading.py` has the rules of
merging, `arguments.py` those of values on the command line.
"""

from config.command import parse_with_overrides
from config.reading import Config, check_config, merge, origin, read_config, read_overrides
from config.schema import Fraction, Rate, Schema, expand_word
from config.validation import dump, validate

__all__ = [
    "Config",
    "Fraction",
    "Rate",
    "Schema",
    "check_config",
    "dump",
    "expand_word",
    "merge",
    "origin",
    "parse_with_overrides",
    "read_config",
    "read_overrides",
    "validate",
]
