"""Runs the Autobahn cases against the server whose address is the only argument, and prints how they went.

AUTOBAHN_CASES names the cases, or patterns of them, that are run, and AUTOBAHN_EXCLUDED those that are left out of them, each with
spaces between them. It ends with an error if a case fails that is not about compression, which the gateway does not offer, and
if none was run.
"""

import asyncio
import os
import sys
from collections import Counter

from kosoku import FailureError, run_fuzzingclient
from kosoku._report_assets import CaseCategories

# permessage-deflate (RFC 7692), which the gateway does not offer: events are short, and each session would hold a window.
COMPRESSION = ("12", "13")

# How many cases are under way at once. Each waits most of the time, some of them for seconds.
CONCURRENCY = 8


async def run(address):
    included = os.environ.get("AUTOBAHN_CASES", "").split() or None
    excluded = os.environ.get("AUTOBAHN_EXCLUDED", "").split() or None
    try:
        return await run_fuzzingclient(address, included, excluded, concurrency=CONCURRENCY)
    except FailureError as failure:
        # These are all that were run, and not only those that failed.
        return failure.results


def group(result):
    return result.case_id.split(".")[0]


def verdict(result):
    """What counts of a case: how it ended if that was not as it should be, else what was said in it."""
    if result.passed:
        return result.behavior.value
    return "UNIMPLEMENTED" if result.behavior.value == "UNIMPLEMENTED" else "FAILED"


def tell(result):
    print(f"\n{result.case_id} failed: {result.behavior.value}, closed: {result.behavior_close.value}")
    print(f"  {' '.join(result.description.split())}")
    print(f"  expected: {' '.join(result.expectation.split())}")
    print(f"  {result.result} {result.result_close}")
    print(f"  closed with {result.remote_close_code} {result.remote_close_reason or ''}; {result.was_not_clean_reason or ''}")


def main():
    results = asyncio.run(run(sys.argv[1]))
    verdicts = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")
    print(f"{'cases':<36}" + "".join(f"{one.lower():>15}" for one in verdicts))
    groups = sorted({group(result) for result in results}, key=int)
    for one in groups:
        counted = Counter(verdict(result) for result in results if group(result) == one)
        name = f"{one}.* {CaseCategories.get(one, '')}"
        print(f"{name:<36.35}" + "".join(f"{counted[verdict] or '':>15}" for verdict in verdicts))
    counted = Counter(verdict(result) for result in results)
    print(f"{'all':<36}" + "".join(f"{counted[one] or '':>15}" for one in verdicts))
    failed = [result for result in results if not result.passed and group(result) not in COMPRESSION]
    for result in failed:
        tell(result)
    if failed:
        sys.exit(f"\n{len(failed)} cases failed")
    if not results:
        sys.exit("no case was run")


main()
