"""Looks the pinned packages up in a database of known vulnerabilities, by pip-audit (`make audit`).

    python .ci/audit.py [FILE]

FILE (constraints.txt) holds a `NAME==VERSION` a line. Nothing is installed, and nothing of the packages is run. Needs
`pip install pip-audit`, which is no part of the extras, and the network. Exit status: 0, no vulnerability is known; 1,
some are, and are listed; 2, it could not be found out, since pip-audit or the network is missing, which is said.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOUND, UNKNOWN = 1, 2
PINNED = Path(__file__).parents[1] / "constraints.txt"
SECONDS = 600


def audit(pinned: Path) -> int:
    """The exit status."""
    if find_spec("pip_audit") is None:
        print(f"not audited: pip-audit is missing; {sys.executable} -m pip install pip-audit", file=sys.stderr)
        return UNKNOWN
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--disable-pip",
               "--no-deps", "--requirement", str(pinned)]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"not audited: there was no answer within {SECONDS} s", file=sys.stderr)
        return UNKNOWN
    except (ValueError, LookupError, TypeError):  # it prints no list where something went wrong, such as the network
        print(f"not audited: {' '.join(done.stderr.split())[-500:] or 'pip-audit said nothing'}", file=sys.stderr)
        return UNKNOWN
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", ())]
    for package, flaw in found:
        mended = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
        print(f"{package['name']} {package['version']}: {flaw['id']}, mended in {mended}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        print(f"not audited: {', '.join(skipped)}", file=sys.stderr)
    print(f"{len(packages) - len(skipped)} packages, {len(found)} known vulnerabilities")
    return FOUND if found else UNKNOWN if skipped else 0


if __name__ == "__main__":
    sys.exit(audit(Path(sys.argv[1]) if sys.argv[1:] else PINNED))
