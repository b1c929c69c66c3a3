"""The captions of `snakemake --report` are text without holes or warnings, for every study."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined

from conftest import REPOSITORY

CAPTIONS = sorted((REPOSITORY / "workflow/report").glob("*.rst"))


@pytest.mark.parametrize("caption", CAPTIONS, ids=lambda path: path.stem)
def test_captions_are_whole(caption: Path) -> None:
    config = yaml.safe_load((REPOSITORY / "params.yaml").read_text())  # what Snakemake hands over
    template = Environment(undefined=StrictUndefined).from_string(caption.read_text())
    text = template.render(snakemake=SimpleNamespace(config=config))
    shown = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]
    assert shown.strip()
    assert "System Message" not in shown
