"""Look the installed packages up among the known vulnerabilities: ``python .ci/audit.py``.

Advisories come from PyPI, or else from OSV. Where neither can be reached, or knows none of the packages, as behind a
mirror, this says so and is no failure: nothing was audited then. A vulnerability with a fixed version to change to is a
failure; one without is shown.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SERVICES = ("pypi", "osv")
SECONDS = 120
"""The most that a service may take for all packages."""
ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern the suite: their id, and why."""


def ask(service: str) -> tuple[list[dict[str, Any]], str]:
    """What a service says of each package, and what went wrong, if it says nothing."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    options = ["--skip-editable", "--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS)
        return json.loads(done.stdout)["dependencies"], ""
    except subprocess.TimeoutExpired:
        return [], f"no answer within {SECONDS} s"
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]


def judge(packages: list[dict[str, Any]]) -> tuple[int, list[str], bool]:
    """How many packages were audited, a line for each vulnerability, and whether one could be mended."""
    audited = [package for package in packages if "vulns" in package]
    lines, mendable = [], False
    for package in audited:
        for found in package["vulns"]:
            names = {found["id"], *found.get("aliases", ())}
            fixed = ", ".join(found.get("fix_versions", ()))
            reason = next((ACCEPTED[name] for name in names if name in ACCEPTED), "")
            mendable |= bool(fixed) and not reason
            remedy = f"accepted: {reason}" if reason else f"fixed in {fixed}" if fixed else "no fixed version yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, {remedy}")
    return len(audited), lines, mendable


def main() -> int:
    """Print what is known; the exit status is 1 if a vulnerability could be mended."""
    for service in SERVICES:
        packages, problem = ask(service)
        audited, lines, mendable = judge(packages)
        if audited:
            print(f"audit: {audited} of {len(packages)} packages are known to {service}; {len(lines)} vulnerabilities")
            print(*lines, sep="\n", end="\n" if lines else "")
            return int(mendable)
        print(f"audit: {service} was of no use: {problem or f'it knows none of {len(packages)} packages'}")
    print("audit: NOTHING WAS AUDITED, as no advisory service can be reached from here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
