"""Command lines that end with KEY=VALUE. Imports nothing that takes long, so that they can be read first of all."""

from argparse import Namespace

from config.reading import check_config
from errors import ArgumentParser


def parse_with_overrides(
    parser: ArgumentParser,
    meaning: str = "settings to change, for example model.upsampler=carafe",
    *,
    json_may_be_bare: bool = False,
) -> Namespace:
    """The arguments of a command with `--cfg`, and KEY=VALUE as `overrides`, whose syntax is checked. Raises UserError.

    meaning: the help text of KEY=VALUE. json_may_be_bare: `--json` may stand without a file, which "-" says.
    """
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=meaning)
    arguments = parser.parse_intermixed_args()
    if (
        json_may_be_bare and arguments.json and "=" in arguments.json
    ):  # `--json KEY=VALUE`: the next argument, not a file
        arguments.overrides.append(arguments.json)
        arguments.json = "-"
    check_config(arguments.cfg, arguments.overrides)
    return arguments
