"""Train plain dense designs as machine code in the cache of one core. `docs/compiled.md` walks through it."""
