"""Whole swarms in simulated time on the very core, picker and admission: they always end."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulate import Scene, simulate

SCENES = st.builds(
    Scene,
    nodes=st.integers(1, 24),
    spans=st.integers(1, 64),
    racks=st.integers(1, 4),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    liars=st.sampled_from([0.0, 0.1, 0.3]),
    killed=st.sampled_from([0.0, 0.2, 0.5]),
    slow=st.sampled_from([0.0, 0.1]),
    tracker_dies_s=st.sampled_from([0.3, 1e6]),
    seed=st.integers(0, 10**6),
)


@settings(deadline=None, max_examples=25)
@given(SCENES)
def test_a_swarm_always_ends_and_asks_nobody_twice(scene: Scene) -> None:
    outcome = simulate(scene)
    assert outcome.complete == outcome.expected
    assert outcome.repeated == 0
    assert outcome.dropped_liars <= round(scene.liars * scene.nodes)


@pytest.mark.parametrize(("nodes", "bound"), [(1, 1.05), (2, 1.2), (8, 1.25), (30, 1.4)])
def test_the_makespan_stays_near_the_bound(nodes: int, bound: float) -> None:
    outcome = simulate(Scene(nodes=nodes, spans=256, seed=3))
    assert outcome.ratio <= bound
    assert outcome.seeder_copies <= 1.2


def test_the_same_seed_gives_the_same_swarm() -> None:
    scene = Scene(nodes=10, spans=40, loss=0.05, liars=0.1, seed=5)
    first, second = (dataclasses.replace(simulate(scene), wall_s=0) for _ in range(2))
    assert first == second
    assert first != dataclasses.replace(simulate(dataclasses.replace(scene, seed=6)), wall_s=0)


def test_liars_are_dropped_and_cost_little() -> None:
    honest = simulate(Scene(nodes=20, spans=128, seed=1))
    lied_to = simulate(Scene(nodes=20, spans=128, seed=1, liars=0.1))
    assert lied_to.dropped_liars == 2
    assert lied_to.makespan_s <= 1.5 * honest.makespan_s


def test_the_seeder_may_die_when_one_copy_is_out() -> None:
    outcome = simulate(Scene(nodes=12, spans=128, seed=2, seeder_dies_after_copy=True))
    assert outcome.complete == 12


def test_the_tracker_may_die_after_the_first_answers() -> None:
    outcome = simulate(Scene(nodes=40, spans=64, seed=2, tracker_dies_s=0.1))
    assert outcome.complete == 40


def test_a_fifth_of_the_peers_may_die_on_the_way() -> None:
    whole = simulate(Scene(nodes=20, spans=128, seed=4))
    outcome = simulate(Scene(nodes=20, spans=128, seed=4, killed=0.2))
    assert outcome.complete == outcome.expected == 16
    assert outcome.makespan_s <= 2 * whole.makespan_s


def test_racks_make_no_islands() -> None:
    outcome = simulate(Scene(nodes=40, spans=128, racks=8, seed=4))
    assert outcome.complete == 40
    assert outcome.ratio < 2.2  # a span waits for the one that brings it in
    # Without regard to racks, each of the 5 nodes of a rack would take 7 of 8 spans from outside.
    assert 0.8 <= outcome.uplink_copies < 2  # the rack of the seeder needs none


def test_the_last_one_of_a_rack_that_lives_waits_for_no_mate() -> None:
    outcome = simulate(Scene(nodes=13, spans=26, racks=4, loss=0.02, killed=0.5, seed=1))
    assert outcome.complete == outcome.expected == 7


def test_uneven_links_and_what_is_said_beside_the_spans() -> None:
    outcome = simulate(Scene(nodes=20, spans=128, uneven=0.5, seed=4))
    assert outcome.complete == 20
    assert outcome.ratio < 1.2  # the bound is that of the slowest link
    assert 0.5 < outcome.control_per_node_s < 5
