"""The words for what a picture shows."""

from typing import Literal

Kind = Literal["robot", "cat", "bear", "bird"]
Paint = Literal["red", "orange", "yellow", "green", "blue", "purple", "white", "grey"]
Pose = Literal["standing", "waving", "jumping", "sitting"]
Accessory = Literal["none", "hat", "scarf", "umbrella", "balloon"]
Background = Literal["beach", "forest", "city", "snow", "desert", "room"]
Light = Literal["day", "sunset", "night"]
Pattern = Literal["plain", "stripes", "bands", "dots", "checks", "zigzag", "ring", "patch"]
Mouth = Literal["smile", "line", "circle", "teeth"]
