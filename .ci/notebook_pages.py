"""Hook of mkdocs (mkdocs.yml): a page of the documentation site for each notebook, from its text and code cells."""

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `notebooks/NAME.md` for each `notebooks/NAME.ipynb` of the repository."""
    for notebook in sorted(Path(config.config_file_path).with_name("notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page_text(notebook)))
    return files


def page_text(notebook: Path) -> str:
    """Markdown of a notebook."""
    cells = map(to_markdown, json.loads(notebook.read_text())["cells"])
    return "\n\n".join([*cells, f"This page is `notebooks/{notebook.name}` of the repository.\n"])


def to_markdown(cell: dict[str, Any]) -> str:
    """Markdown of a cell; links to other notebooks become links to their pages."""
    source = "".join(cell["source"])
    return source.replace(".ipynb)", ".md)") if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
