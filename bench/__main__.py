"""``python -m bench [NAME...]``: the numbers of the design, as ratios of one run; ``bench/README.md`` explains them."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import runs
from bench.affinity import affinity_rows

_RUNS: dict[str, Callable[[Path], list[runs.Row]]] = {
    "edge": runs.edge_rows,
    "store": runs.store_rows,
    "fixed": runs.fixed_rows,
    "memory": runs.memory_rows,
    "affinity": affinity_rows,
    "chain": lambda folder: asyncio.run(runs.chain_rows(folder)),
}


def main() -> int:
    """Run what is named, all by default, and print a table as it grows."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(_RUNS)}; default: all")
    names = parser.parse_args().names or list(_RUNS)
    if unknown := set(names) - _RUNS.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    line = "{:28} {:>16} {:>20} {:>12} {:>10}".format
    print(line("", "measured", "against", "result", "to hold"))
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for row in _RUNS[name](Path(folder)):
                print(line(*row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
