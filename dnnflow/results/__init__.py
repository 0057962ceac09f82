"""Keep what is known, and make numbers of it. Rooms: `store` (SQL), `view` (what people are shown)."""
