"""The miniatures, one module each, with the same functions: `build`, `processor`, `see`, `start`, `learned`, `say`."""
