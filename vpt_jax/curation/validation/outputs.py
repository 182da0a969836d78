"""Output files of the commands: JSON and HTML pages, written atomically into one folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.curation.validation.tables import Table
from vpt_jax.report import page
from vpt_jax.system.atomic_files import write_text


def out_folder(config: ConfigDict) -> Path:
    """Folder of the results: `config.out` or, without it, a folder next to the dataset."""
    data = Path(config.data).resolve()
    return Path(config.out) if config.out else data.with_name(f"{data.name}.inspection")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON-serializable value by atomic rename."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_page(path: Path, title: str, facts: Mapping[str, str], tables: Sequence[Table]) -> None:
    """Writes an HTML page of facts and tables."""
    sections = [page.section("Checked", page.facts_list(facts)), *(table.html() for table in tables)]
    write_text(path, page.page(title, sections))
