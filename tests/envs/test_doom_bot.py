"""Map and navigation graph of the scripted Doom player: two hand-made rooms, and the game's levels."""

import numpy as np
import pytest

from vpt_jax.envs.doom.bot.roadmap import Roadmap
from vpt_jax.envs.doom.bot.terrain import EYE_HEIGHT, Terrain
from vpt_jax.envs.doom.env import DoomEnv
from vpt_jax.envs.doom.level import LEVELS, Geometry, read_geometry

NOTHING = np.zeros((0, 2))
WEST, EAST = np.array([80.0, 128]), np.array([440.0, 128])


def rooms(floor=0.0, ceiling=128.0, special=0, tag=0):
    """Two rooms of 256 x 256 units; between them, from x = 256 to 264, a sector with this floor and ceiling."""
    ends = [((0, 0), (0, 256)), ((0, 256), (256, 256)), ((256, 0), (0, 0)), ((520, 256), (520, 0)),
            ((264, 256), (520, 256)), ((520, 0), (264, 0)), ((256, 256), (264, 256)), ((264, 0), (256, 0)),
            ((256, 256), (256, 0)), ((264, 0), (264, 256))]  # fmt: skip
    sides = [(0, -1)] * 3 + [(1, -1)] * 3 + [(2, -1)] * 2 + [(0, 2), (1, 2)]
    return Geometry(
        ends=np.array(ends, float), sides=np.array(sides), blocking=np.array(sides)[:, 1] < 0,
        special=np.array([0] * 8 + [special] * 2), tag=np.array([0] * 8 + [tag] * 2),
        floor=np.array([0, 0, floor]), ceiling=np.array([128, 128, ceiling]),
        sector_special=np.zeros(3, int), sector_tag=np.array([0, 0, tag]),
    )  # fmt: skip


def sees(terrain, a, b):
    return bool(terrain.line_of_sight(np.append(a, EYE_HEIGHT), np.append(b, EYE_HEIGHT)[None])[1][-1, 0])


def cost(terrain, a, b):
    roadmap = Roadmap(terrain)
    return roadmap.routes(roadmap.node_at(a)).cost[roadmap.node_at(b)]


def test_pixels_have_their_sector_and_the_distance_to_walls():
    terrain = Terrain(rooms(), NOTHING)
    points = np.array([[-20.0, 128], [1, 1], [255, 128], [260, 128], [265, 128], [519, 255], [540, 128]])
    assert terrain.sector_at(points).tolist() == [-1, 0, 0, 2, 1, 1, -1]
    np.testing.assert_allclose(terrain.clearance[terrain.pixels(WEST)], 80, atol=4)
    np.testing.assert_allclose(terrain.clearance[terrain.pixels(np.array([40.0, 20]))], 20, atol=4)


@pytest.mark.parametrize(
    ("sill", "walks", "looks"),
    [
        ({"floor": 24}, True, True),  # a step
        ({"floor": 25}, False, True),  # a ledge
        ({"ceiling": 56}, True, True),  # a lintel
        ({"ceiling": 50}, False, True),
        ({"ceiling": 30}, False, False),
        ({"ceiling": 0}, False, False),  # a closed gate
        ({"ceiling": 0, "special": 1}, True, False),  # a door
        ({"ceiling": 0, "special": 26}, False, False),  # a door that needs the blue key
        ({"floor": 100}, False, False),  # a wall
        ({"floor": 100, "special": 62, "tag": 7}, True, False),  # a lift, which comes down
    ],
)
def test_where_a_player_can_walk_and_look(sill, walks, looks):
    terrain = Terrain(rooms(**sill), NOTHING)
    assert bool(terrain.can_walk(WEST, EAST)[0]) == walks
    assert bool(np.isfinite(cost(terrain, WEST, EAST))) == walks
    assert sees(terrain, WEST, EAST) == looks


def test_players_can_drop_down_a_ledge_but_not_climb_it():
    sill = np.array([260.0, 128])
    assert [bool(way) for way in Terrain(rooms(floor=60), NOTHING).can_walk(sill, EAST)] == [True, False]


def test_keys_and_switches_open_routes():
    locked = Terrain(rooms(ceiling=0, special=26), NOTHING)
    locked.unlock("Red")
    assert np.isinf(cost(locked, WEST, EAST))
    locked.unlock("Blue")
    assert np.isfinite(cost(locked, WEST, EAST))
    walled = Terrain(rooms(floor=128, special=23, tag=4), NOTHING)
    assert np.isinf(cost(walled, WEST, EAST))
    walled.trigger(4)
    assert np.isfinite(cost(walled, WEST, EAST))


def test_routes_avoid_added_obstacles_until_they_are_reset():
    terrain, target = Terrain(rooms(), NOTHING), np.array([200.0, 128])
    direct = cost(terrain, WEST, target)
    terrain.add_obstacle(np.array([140.0, 128]))
    assert not terrain.can_walk(WEST, target)[0]
    assert direct < cost(terrain, WEST, target) < 4 * direct
    terrain.reset_obstacles()
    assert cost(terrain, WEST, target) == direct


@pytest.mark.parametrize("level", ["MAP01", "E1M5", "deathmatch", "my_way_home"])
def test_the_terrain_agrees_with_the_game(level):
    env = DoomEnv(level, 90, 160, objects=True)
    _, info = env.reset(seed=0)
    things = env.objects()
    env.close()
    terrain = Terrain(read_geometry(level), NOTHING)
    positions = np.array([(thing.position_x, thing.position_y) for thing in things])
    sectors = np.array([thing.sector_id for thing in things])
    assert (terrain.sector_at(positions) == sectors).mean() > 0.9  # things on a line may be in either
    start = np.array([info["x"], info["y"]])
    assert terrain.floor[terrain.sector_at(start)] == info["z"]
    assert terrain.clearance[terrain.pixels(start)] >= 12


def test_every_level_can_be_read_and_mapped():
    for level in LEVELS:
        geometry = read_geometry(level)
        assert geometry.sides.max() < len(geometry.floor)
        assert geometry.sides.min() >= -1
        assert (geometry.sides[:, 0] >= 0).all()  # a line has a right side
    assert len(Roadmap(Terrain(read_geometry("MAP01"), NOTHING)).position) > 1000


def test_a_route_through_a_door_of_a_real_level():
    terrain = Terrain(read_geometry("MAP01"), NOTHING)
    hall, behind_the_door = np.array([[300.0, -150], [750.0, -150]])

    roadmap = Roadmap(terrain)
    routes = roadmap.routes(roadmap.node_at(hall))
    route = roadmap.position[routes.to(roadmap.node_at(behind_the_door))]
    assert 400 < routes.cost[roadmap.node_at(behind_the_door)] < 1200
    assert (np.linalg.norm(np.diff(route, axis=0), axis=1) < 48).all()
    assert terrain.clearance[terrain.pixels(route)].min() >= 16
