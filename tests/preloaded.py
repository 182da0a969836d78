"""What the server of `tests/programs.py` imports: all that the programs need, and nothing that starts a thread."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import launch.train, launch.label, launch.evaluate
