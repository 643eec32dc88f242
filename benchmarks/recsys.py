"""`make bench-recsys`: figures and times of the three kinds of recommendations on public sets."""

import argparse
from collections.abc import Callable

from benchmarks import recsys_ncf, recsys_next_item, recsys_shops, recsys_trending

PARTS: dict[str, Callable[[], None]] = {
    "ncf": lambda: recsys_ncf.main([]),
    "shops": lambda: recsys_shops.main([]),
    "next-item": lambda: recsys_next_item.main([]),
    "trending": lambda: recsys_trending.main([]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part; python -m benchmarks.recsys_shops --help tells its pieces")
    options = parser.parse_args()
    for name, run in PARTS.items():
        if options.only in {None, name}:
            run()


if __name__ == "__main__":
    main()
