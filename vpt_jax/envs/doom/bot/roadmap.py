"""Navigation graph of a Doom level: cells of 16 map units that a player fits in, connected where walkable."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from vpt_jax.envs.doom.bot.terrain import RADIUS, ROOM, Terrain
from vpt_jax.envs.doom.level import DAMAGING

CELL = 4  # pixels of the terrain
_ROOMY = 48.0  # map units to the nearest wall, beyond which more does not reduce the cost
_MOVING_COST = 96.0  # cost of opening a door or waiting for a lift, in map units


class Routes(NamedTuple):
    """Shortest paths from one node to all others: cost in map units, and predecessor of each node."""

    cost: Float[np.ndarray, " nodes"]  # infinite where there is no path
    previous: Int[np.ndarray, " nodes"]

    def to(self, node: int) -> list[int]:
        """Returns the nodes of the path to `node`, from the start."""
        path = [node]
        while (node := int(self.previous[node])) >= 0:
            path.append(node)
        return path[::-1]


class Roadmap:
    """Navigation graph; its nodes are places to stand, one per cell, with `position` (x, y), `sector` and `clearance`.

    The cost of an edge is its length, increased near walls and in slime, plus a constant where a door or lift has to
    move first.
    """

    def __init__(self, terrain: Terrain):
        self._terrain = terrain
        rows, columns = (size // CELL for size in terrain.clearance.shape)
        whole_cells = terrain.clearance[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
        cells = whole_cells.transpose(0, 2, 1, 3).reshape(rows, columns, CELL * CELL)
        fits = cells.max(-1) >= ROOM
        self._node_of_cell = np.where(fits, np.cumsum(fits).reshape(fits.shape) - 1, -1)
        (row, column), roomiest = np.nonzero(fits), cells.argmax(-1)[fits]
        pixels = row * CELL + roomiest // CELL, column * CELL + roomiest % CELL
        self.position, self.sector = terrain.points(*pixels), terrain.sector[pixels]
        self.clearance = terrain.clearance[pixels]
        self._graph = self._build()

    def node_at(self, point: Float[np.ndarray, "2"]) -> int:
        """Returns the node of the point's cell, or else the nearest one."""
        row, column = (int(pixel) // CELL for pixel in self._terrain.pixels(point))
        rows, columns = self._node_of_cell.shape
        node = int(self._node_of_cell[min(row, rows - 1), min(column, columns - 1)])
        return node if node >= 0 else int(((self.position - point) ** 2).sum(1).argmin())

    def routes(self, start: int) -> Routes:
        """Returns the shortest paths from a node to all others (Dijkstra)."""
        return Routes(*dijkstra(self._graph, indices=start, return_predecessors=True))

    def _build(self) -> csr_array:
        pairs = np.concatenate([self._neighbours(*shift) for shift in ((0, 1), (1, 0), (1, 1), (1, -1))])
        there, back = self._terrain.can_walk(self.position[pairs[:, 0]], self.position[pairs[:, 1]])
        start, end = np.concatenate([pairs[there], pairs[back, ::-1]]).T
        length = np.linalg.norm(self.position[end] - self.position[start], axis=1)
        tight = np.clip(1 - (self.clearance[end] - RADIUS) / _ROOMY, 0, 1)
        slime = np.isin(self._terrain.geometry.sector_special, DAMAGING)[self.sector[end]]
        moving = self._terrain.movable[self.sector[end]] & ~self._terrain.movable[self.sector[start]]
        cost = length * (1 + 2 * tight**2 + 6 * slime) + _MOVING_COST * moving
        return csr_array((cost, (start, end)), shape=(len(self.position), len(self.position)))

    def _neighbours(self, down: int, right: int) -> Int[np.ndarray, "pairs 2"]:
        """Returns pairs of nodes whose cells are adjacent in one direction."""
        node = np.pad(self._node_of_cell, 1, constant_values=-1)
        shifted = np.roll(node, (-down, -right), (0, 1))
        both = (node >= 0) & (shifted >= 0)
        return np.stack([node[both], shifted[both]], 1)
