import os
import subprocess
import tomllib
from pathlib import Path

from nodectl.zipapp.identity import SOURCE, identity, self_command

ROOT = Path(__file__).parents[3]


def test_from_a_checkout_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert identity().version == project["version"]
    assert identity().build_id == SOURCE


def test_the_same_program_starts_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [*self_command(), "version"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"nodectl {identity().version} (build source, Python 3.")
