"""The network configuration of a node, for each program that makes it so.

A golden file is the configuration as a person would review it; after a wanted change:
`NODECTL_WRITE_GOLDEN=1 pytest tests/golden/test_network.py`. The golden files of "everything" were
read by networkctl and systemd-analyze, nmcli, netplan generate and ifup --no-act of Debian 12.
"""

import os
from pathlib import Path

import pytest
from inventory_samples import NODES

from nodectl.catalog.inventory import Renderer
from nodectl.identity.model import IdentityPlan, NodeFacts, TreeFacts, WriteFile
from nodectl.identity.network.plan import plan_network

GOLDEN = Path(__file__).parent / "network"


def _text(node: NodeFacts, renderer: Renderer) -> str:
    tree = TreeFacts(programs=frozenset({renderer, "ifenslave", "bridge-utils"}))
    plan = plan_network(tree, node)
    IdentityPlan(machine_id="", actions=plan.actions)  # each path once
    files = [action for action in plan.actions if isinstance(action, WriteFile)]
    parts = [f"==> /{file.path} {file.mode:o}\n{file.data.decode()}" for file in files]
    others = [action.shown() for action in plan.actions if not isinstance(action, WriteFile)]
    return "\n".join([*parts, *others, *plan.notes]).rstrip() + "\n"


@pytest.mark.parametrize("renderer", list(Renderer))
@pytest.mark.parametrize("name", list(NODES))
def test_a_nodes_network(name: str, renderer: Renderer) -> None:
    node = NodeFacts(realm_id="realm", name="node07", inventory=NODES[name])
    text = _text(node, renderer)
    path = GOLDEN / f"{name}-{renderer.lower()}.txt"
    if os.environ.get("NODECTL_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
