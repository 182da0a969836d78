"""`make audit`: known vulnerabilities of the pinned packages, and the message if they are unknown (attack L4)."""

import json
import runpy
import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
SAFE = {"name": "a", "version": "1", "vulns": []}
UNSAFE = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2"}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "message"),
    [
        ([SAFE], 0, "1 packages, 0 known vulnerabilities"),
        ([SAFE, UNSAFE], 1, "b 2: CVE-1, mended in 3\nb 2: CVE-2, mended in no version yet\n2 packages, 2 known"),
        ([SAFE, SKIPPED], 2, "not audited: c"),
        ([UNSAFE, SKIPPED], 1, "b 2: CVE-1"),
        (None, 2, "not audited: no network"),
        ("missing", 2, "not audited: pip-audit is missing; "),
    ],
)
def test_status_and_message_report_the_vulnerabilities(monkeypatch, capsys, packages, status, message):
    audit = runpy.run_path(str(AUDIT))["audit"]
    answer = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    ended = subprocess.CompletedProcess([], 1, answer, "no\n network\n")
    monkeypatch.setitem(audit.__globals__, "find_spec", lambda name: None if packages == "missing" else name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    assert audit(Path("pinned")) == status
    written = capsys.readouterr()
    assert message in written.out + written.err


def test_all_pins_have_a_form_that_is_audited():
    lines = [line for line in (AUDIT.parents[1] / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert all(line.partition(";")[0].count("==") == 1 for line in lines)
