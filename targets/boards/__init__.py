"""One TOML file per board: its cores, caches and clocks, each with the source of the figure."""
