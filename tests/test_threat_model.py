"""The threat model names tests: each of them must be there."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = (REPOSITORY / "docs" / "threat-model.md").read_text(encoding="utf-8")
    named = {Path(name).name for name in re.findall(r"`([a-z/_]*test_[a-z_]+\.py)`", text)}
    assert len(named) > 12
    assert named - {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")} == set()
