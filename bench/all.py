"""Run every scenario, one after the other.

    python -m bench.all [--stores sqlite mysql mariadb] [--skip NAME ...]

Takes about half an hour. Each scenario prints its table and saves its result; the exit
status is not 0 when something broke (figures below their targets are no failure).
"""

import argparse
import subprocess
import sys

from bench.fixture import STORES
from bench.report import ROOT, console

ONCE = ("idle", "pingpong", "streams", "dashboard", "web")
PER_STORE = ("direct", "rooms", "smoke")


def main() -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    words = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    words.add_argument("--stores", nargs="+", choices=STORES, default=["sqlite", "mysql"])
    words.add_argument("--skip", nargs="+", choices=ONCE + PER_STORE, default=[])
    args = words.parse_args()
    plan = [(name, "sqlite") for name in ONCE]
    plan += [(name, store) for store in args.stores for name in PER_STORE]
    failed = []
    for name, store in plan:
        if name in args.skip:
            continue
        console.rule(f"{name} on {store}")
        command = [sys.executable, "-m", f"bench.{name}", "--store", store]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(f"{name} on {store}")
    console.print(f"broken: {', '.join(failed)}" if failed else "nothing broke")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
