"""Runs the Autobahn cases against the server whose address is the only argument, and prints how they went.

AUTOBAHN_CASES names those that are run, or patterns of them, with spaces between; without it all are. It ends with an error if a
case fails that is not about compression, or if none was run.
"""

import asyncio
import os
import sys
from collections import Counter

from kosoku import FailureError, run_fuzzingclient
from kosoku._report_assets import CaseCategories

# permessage-deflate (RFC 7692), which the gateway does not offer.
COMPRESSION = ("12", "13")

# How many cases are under way at once. Some wait for seconds.
CONCURRENCY = 8

# What a case can come to. Those of the first three have passed: NON-STRICT is what the standard allows and advises against, or does
# not speak of, and INFORMATIONAL what it leaves open.
OUTCOMES = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")


async def run(address):
    cases = os.environ.get("AUTOBAHN_CASES", "").split() or None
    try:
        return await run_fuzzingclient(address, cases, concurrency=CONCURRENCY)
    except FailureError as failure:
        # These are all results, and not only those of cases that failed.
        return failure.results


def group(result):
    return result.case_id.split(".")[0]


def outcome(result):
    if result.passed or result.behavior.value == "UNIMPLEMENTED":
        return result.behavior.value
    # What was said may be right, and the end not.
    return "FAILED"


def print_row(name, counted):
    print(f"{name:<28}" + "".join(f"{one:>15}" for one in counted))


def print_table(results):
    print_row("cases", [one.lower() for one in OUTCOMES])
    for number in sorted({group(result) for result in results}, key=int):
        counted = Counter(outcome(result) for result in results if group(result) == number)
        title = CaseCategories.get(number, "").split(" (")[0]
        print_row(f"{number}.* {title}", [counted[one] or "" for one in OUTCOMES])
    counted = Counter(map(outcome, results))
    print_row("all", [counted[one] for one in OUTCOMES])
    for one in ("NON-STRICT", "INFORMATIONAL"):
        named = [result.case_id for result in results if outcome(result) == one]
        if named:
            print(f"{one.lower()}: {' '.join(named)}")


def print_failure(result):
    print(f"\n{result.case_id}: {' '.join(result.description.split())}")
    print(f"  expected: {' '.join(result.expectation.split())}")
    print(f"  said: {result.behavior.value}. {result.result}")
    print(f"  closed: {result.behavior_close.value}. {result.result_close}")
    print(f"  close code: {result.remote_close_code}, {result.remote_close_reason}")


def main():
    try:
        results = asyncio.run(run(sys.argv[1]))
    except ValueError as error:
        # It names the case that there is not.
        print(error)
        return 2
    print_table(results)
    failed = [result for result in results if not result.passed and group(result) not in COMPRESSION]
    for result in failed:
        print_failure(result)
    if failed:
        print(f"\n{len(failed)} of the cases failed")
    return 1 if failed or not results else 0


status = main()
sys.stdout.flush()
# Not by the usual way: now and then a thread of kosoku's is still there when Python has gone, and ends the process by SIGABRT.
os._exit(status)
