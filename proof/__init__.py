"""The standing proof: drivers that attack the pack case by case, and the frame that runs, watches and counts them.

| word | meaning |
| --- | --- |
| part | one kind of attack: hostile, kills, disk, load, isolation, attacks, audit |
| driver | one file that tries one thing; a line in `proof.table` |
| case | one attempt, which follows from the driver, a seed and a number, so that it can be repeated |
| fault | what was done to the pack in a case |
| violation | what it did that it must not do |

``make test-slow`` runs everything, ``make test`` a short draw of each driver;
docs/reliability.md has the figures of the last slow run.
"""
