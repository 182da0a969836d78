"""Hook of mkdocs (mkdocs.yml): a page of the documentation site for each notebook, from its text and code cells."""

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `notebooks/NAME.md` for each `notebooks/NAME.ipynb` of the repository."""
    for notebook in sorted(Path(config.config_file_path).with_name("notebooks").glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        text = "\n\n".join([*map(to_markdown, cells), f"This page is `notebooks/{notebook.name}` of the repository.\n"])
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    return files


def to_markdown(cell: dict[str, Any]) -> str:
    """Markdown of a cell; links to other notebooks become links to their pages."""
    source = "".join(cell["source"])
    return source.replace(".ipynb)", ".md)") if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
