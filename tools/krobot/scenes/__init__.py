"""Five places where the robot was photographed."""

from . import beach, brick, grass, shelf, table

SCENES = {scene.__name__.rpartition(".")[2]: scene.scene for scene in (table, grass, beach, brick, shelf)}
"""Name to a function that builds the scene."""
