"""What evaluate.py computes: images -> features -> numbers -> report; one file a metric, and a row in table.py."""
