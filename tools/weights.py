"""Published weights: `python -m tools.weights [list | fetch NAME ... | fetch --all-for CFG [KEY=VALUE ...] | verify]`.

list: the index, and what of it is in the cache. fetch: put weights into the cache ahead of a run. verify: compare the
files in the cache with the digests that were written beside them. The cache is DENSEUP_CACHE, or ~/.cache/denseup.
"""

from argparse import Namespace
from pathlib import Path

from config import check_config
from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.weights", description=__doc__)
    parser.add_argument(
        "verb", nargs="?", choices=["list", "fetch", "verify"], default="list", help="what to do (default: list)"
    )
    parser.add_argument("--all-for", type=Path, metavar="CFG", help="fetch what a configuration starts from")
    parser.add_argument("words", nargs="*", default=[], metavar="NAME", help="names; with --all-for KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if arguments.all_for is not None:
        check_config(arguments.all_for, arguments.words)
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from experiment import load_experiment
from published.cache import cache_folder, check, obtain, stored, trusted_since
from published.index import entries, find


def list_entries() -> None:
    """Print the index."""
    for entry in entries().values():
        scores = ", ".join(f"{name} {value:g}" for name, value in entry.scores.items())
        where = " ".join([entry.cfg or "backbone", *entry.settings])
        state = "in the cache" if stored(entry.name).exists() else "by hand" if entry.address is None else ""
        print(f"{entry.name:34} {scores:28} {where:60} {state}".rstrip())
    print(f"\ncache: {cache_folder()}. Scores are as published. Fetch with: python -m tools.weights fetch NAME")


def verify() -> None:
    """Check every converted file in the cache. Raises UserError if one is damaged."""
    names = [name for name in entries() if stored(name).exists()]
    problems = {}
    for name in names:
        remark = "sound"
        try:
            problem = check(name)
            if since := trusted_since(name):
                remark = f"sound, if the first file that came, on {since}, was: no whole SHA-256 is published"
        except (OSError, ValueError, KeyError) as error:
            problem = f"has no record beside it ({error})"
        print(f"{name}: {problem or remark}")
        if problem:
            problems[name] = problem
    if problems:
        name, problem = next(iter(problems.items()))
        raise UserError(stored(name), problem, f"remove it, and run python -m tools.weights fetch {name}")
    print(f"{len(names)} files in {cache_folder()}")


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if arguments.verb == "list":
        list_entries()
    elif arguments.verb == "verify":
        verify()
    elif arguments.all_for is not None:
        experiment = load_experiment(arguments.all_for, arguments.words)
        experiment.fetch_weights()
        if (published := experiment.model.backbone.published) and published.by_timm:
            experiment.model.backbone.build()  # timm fetches its weights itself
        print(f"{arguments.all_for} starts from {experiment.describe_weights()}")
    else:
        if not arguments.words:
            raise UserError("command line", "fetch what?", "name weights of the index, or --all-for CFG")
        for entry in [find(name) for name in arguments.words]:
            print(f"{entry.name}: {obtain(entry.name, f'python -m tools.weights fetch {entry.name}')}")


if __name__ == "__main__":
    run_command(main)
