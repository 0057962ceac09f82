"""Train many dense designs of one structure as one tensor program. `docs/stacked.md` walks through it."""
