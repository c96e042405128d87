"""Runs named checks and prints one line for each; the exit code is 1 when one fails."""

import asyncio
import inspect
import sys
import traceback


def run(checks, *arguments, seconds=30):
    """Runs every check (a function or coroutine function named check_…) with the arguments."""
    failed = 0
    for check in checks:
        name = check.__name__.removeprefix("check_").replace("_", "-")
        try:
            if inspect.iscoroutinefunction(check):
                asyncio.run(asyncio.wait_for(check(*arguments), seconds))
            else:
                check(*arguments)
            print(f"ok {name}", flush=True)
        except BaseException as fault:  # a check must not end the others, whatever it raises
            failed += 1
            print(f"FAILED {name}: {type(fault).__name__}: {fault}", flush=True)
            traceback.print_exc(file=sys.stderr)
    sys.exit(1 if failed else 0)


def equal(got, wanted, what="value"):
    """Fails with both values unless they are the same."""
    if got != wanted:
        raise AssertionError(f"{what} is {got!r}, not {wanted!r}")


def of(module):
    """The checks of a module, in the order in which they are written."""
    return [value for name, value in vars(module).items() if name.startswith("check_")]
