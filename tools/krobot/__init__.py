"""The robot in the sample pictures: a small renderer in numpy, the figure, and five scenes.

shapes.py   signed distances and noise        robot.py   the figure, its poses and its paint
trace.py    rays, shadows, light              world.py   scene: what surrounds the robot, and its picture
film.py     what a camera does to light       scenes/    one file per picture
"""
