"""The physics: one module per topic, every formula one body for numbers, columns and symbols."""
