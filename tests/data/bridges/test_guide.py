"""The example of docs/guides/your-own-recordings.md: its table, facts, action space and mapping make the dataset."""

import re

import numpy as np
import pytest

from configs.prepare import get_config
from tests.programs import ROOT
from vpt_jax.data import dataset
from vpt_jax.data.prepare import prepare
from vpt_jax.video import VideoWriter

PAGE = (ROOT / "docs" / "guides" / "your-own-recordings.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_guides_example_is_a_recording(tmp_path):
    (table,) = blocks("csv")
    facts, space, mapping = blocks("json")
    (tmp_path / "in").mkdir()
    with VideoWriter(tmp_path / "in" / "play.mp4", 16, 16) as video:
        for _ in range(60):
            video.write(np.zeros((16, 16, 3), np.uint8))
    for name, content in {"in/play.csv": table, "in/play.json": facts, "s.json": space, "m.json": mapping}.items():
        (tmp_path / name).write_text(content)
    config = get_config()
    config.update(recordings=str(tmp_path / "in"), out=str(tmp_path / "out"), height=16, width=16, workers=1)
    config.update(space=str(tmp_path / "s.json"), mapping=str(tmp_path / "m.json"))
    index = dataset.load_index(prepare(config, "event_table"), "train")
    assert index.names == ("play@0-40", "play@48-60")
    held = {key: np.flatnonzero(index.buttons[:, number]) for key, number in index.space.key_index.items()}
    assert held.pop("forward").tolist() == list(range(10, 35))
    assert held.pop("fire").tolist() == [18]
    assert not any(map(len, held.values()))
    assert index.camera[10].tolist() == pytest.approx([-0.45, 1.8])
    assert np.count_nonzero(index.camera) == 2
