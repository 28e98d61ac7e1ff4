"""The tables, and the formats that they are written in."""
