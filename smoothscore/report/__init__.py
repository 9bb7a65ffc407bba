"""Several runs side by side: measured alike, as a table and as one page to look at."""

from smoothscore.report.compare import Comparison, compare_runs
from smoothscore.report.frontier import frontier, write_frontier
from smoothscore.report.page import write_page
from smoothscore.report.table import Table

__all__ = ["Comparison", "Table", "compare_runs", "frontier", "write_frontier", "write_page"]
